"""Kill runs at random moments, resume them, and compare what they end with to a run that was left alone.

    python examples/kill_and_resume.py --kills 20

The command and everything that it started are killed by SIGKILL, at random moments spread evenly over the start, the
rounds and the end of a run; every other kill is on Ray. Each killed run is resumed to its end. The table that is
printed says in which stage and round it was, and whether `shared.safetensors`, `clients.csv` and every private file
have the same bytes as those of the run that was left alone. Exits 1 where one has not. The data are tiny: a run takes
some ten seconds.
"""

import argparse
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings, load
from strategy.plan import plan

CLASSES = 5
COMMAND = [sys.executable, "-m", "fed_rebel.cli"]


@dataclass(frozen=True)
class Kill:
    """One run that was killed and resumed."""

    engine: str
    after: float
    """Seconds from the start of the command."""
    moment: str
    """The round that it was in, and its stage."""
    same: bool
    """Whether it ended with the same bytes."""


def kill_and_resume(folder: Path, engine: str, moments: Iterable[float]) -> Iterator[Kill]:
    """Kill a new run at each of these moments, from 0 (the start of the command) to 1 (the end of a whole run)."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = write_settings(folder, engine)
    left_alone = folder / "left-alone"
    simulate(settings, folder / "first")  # trains the base model, which later runs find in the cache
    took = simulate(settings, left_alone)
    expected = results(left_alone)
    for number, moment in enumerate(moments):
        run = folder / f"killed-{number}"
        after, ended = kill(settings, run, moment, took)
        was_in = "after its end" if ended else stage_of(run)
        if run.exists():
            subprocess.run([*COMMAND, "resume", str(run)], check=True, stdout=subprocess.DEVNULL)
        else:  # nothing was begun, and nothing is in the way
            simulate(settings, run)
        yield Kill(engine, after, was_in, results(run) == expected)


def kill(settings: Path, run: Path, moment: float, took: float) -> tuple[float, bool]:
    """Begin a run and kill it; gives the seconds that it had, and whether it had ended by itself.

    The start of the command, each round, and what comes after the last are given an equal part of the moments: when its
    part is reached, a random share of the time of such a part is waited for.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, "simulate", str(settings), "--out", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    parts = len(plan(load(settings))) + 2
    within, part = math.modf(moment * parts)
    while process.poll() is None and part > (1 + RunDirectory(run).rounds_done if run.exists() else 0):
        time.sleep(0.01)
    time.sleep(within * took / parts)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return time.monotonic() - began, ended


def stage_of(run: Path) -> str:
    """Where a killed run was."""
    if not run.exists():
        return "before the run directory"
    directory, settings = RunDirectory.open(run)
    rounds, done = plan(settings), directory.rounds_done
    if done == len(rounds):
        return "the report" if directory.finished else "the results"
    begun = "" if directory.round_path(done).exists() else ", before it"
    return f"round {done + 1} of {len(rounds)}, {rounds[done].stage}{begun}"


def results(run: Path) -> dict[str, bytes]:
    """The files that must be the same to the bit."""
    paths = [run / "shared.safetensors", run / "clients.csv", *(run / "private").iterdir()]
    return {path.name: path.read_bytes() for path in paths}


def simulate(settings: Path, run: Path) -> float:
    """A whole run; gives the seconds that it took."""
    began = time.monotonic()
    subprocess.run([*COMMAND, "simulate", str(settings), "--out", str(run)], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def write_settings(folder: Path, engine: str) -> Path:
    """Five classes of noise with a stripe at the class's place, three clients of 40 images, every stage once."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, each in (("train", 100), ("test", 40)):
        labels = rng.permutation(np.repeat(np.arange(CLASSES), each))
        images = rng.integers(0, 80, (len(labels), 32, 32, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[6 * label : 6 * label + 6, :, label % 3] += 120
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    np.savez(folder / "tiny.npz", **arrays)
    (folder / "data").mkdir(exist_ok=True)
    settings = Settings.from_flat(
        {
            "data.name": str(folder / "tiny.npz"),
            "data.dir": str(folder / "data"),
            "partition.alpha": 1.0,
            "partition.clients": 3,
            "partition.samples": 40,
            "base.weights": "train",
            "base.epochs": 1,
            "early.components": 2,
            "rounds.warm_start": 1,
            "rounds.distill": 1,
            "rounds.finetune": 1,
            "engine.kind": engine,
        }
    )
    path = folder / "settings.toml"
    path.write_text(settings.to_toml(), encoding="utf-8")
    return path


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many runs to kill, half of them on Ray")
    parser.add_argument("--engine", choices=("inline", "ray"), help="only this one")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    # One moment in each of as many equal parts of a run: spread over all stages, and random within.
    moments = [(number + rng.random()) / options.kills for number in range(options.kills)]
    of_engine = {"inline": moments[::2], "ray": moments[1::2]}
    if options.engine:
        of_engine = {options.engine: moments}
    same = True
    print("| engine | killed after | it was in | same bytes |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for engine, chosen in of_engine.items():
            for kill in kill_and_resume(Path(folder) / engine, engine, chosen):
                same &= kill.same
                told = "yes" if kill.same else "**no**"
                print(f"| {kill.engine} | {kill.after:.1f} s | {kill.moment} | {told} |", flush=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
