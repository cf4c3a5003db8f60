"""A federated run in this process, against a hand-written loop of the same local steps on as many threads."""

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.bare_loop import BareLoop
from benchmarks.table import Row, times
from benchmarks.timing import seconds, threads
from clients.app import app
from fed_rebel.launch.inline import InlineGrid
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings, load
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.setup import prepare
from strategy.rounds import Fault
from strategy.server import Rows, Server


@dataclass
class Watch:
    """How long each round takes."""

    seconds: list[float] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    began: float = 0.0

    def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
        """A round begins."""
        self.began = time.perf_counter()

    def replied(self) -> None:
        """A client's reply came in."""

    def fault(self, round: int, fault: Fault) -> None:
        """There is to be none."""
        self.faults.append(fault)

    def round_ended(self, rows: Rows) -> None:
        """A round is kept."""
        self.seconds.append(time.perf_counter() - self.began)


@dataclass(kw_only=True)
class InTurn(Watch):
    """After each round that trains comes the same of a hand-written loop: what slows one slows the other."""

    loop: Iterator[tuple[float, Tensors]]
    bare: list[float] = field(default_factory=list)
    by_hand: Tensors = field(default_factory=dict)

    def round_ended(self, rows: Rows) -> None:
        """The loop's turn."""
        super().round_ended(rows)
        if len(self.seconds) > 1:  # the first is the private start
            took, self.by_hand = next(self.loop)
            self.bare.append(took)


def rows(quick: bool) -> Iterator[Row]:
    """The rounds that train and do not evaluate, and the whole run; shards as the preset has them, and small ones."""
    for clients, samples, repeats in ((2, 64, 1),) if quick else ((20, 600, 2), (20, 100, 4)):
        settings = federation(clients, samples)
        training, whole, bare_training, bare_whole, same = [], [], [], [], True
        with threads(settings.engine.threads):
            loop = BareLoop(settings)
            for _ in range(repeats):
                with tempfile.TemporaryDirectory() as folder:
                    watch = InTurn(loop=timed_rounds(loop))
                    took = seconds(lambda: run_inline(settings, Path(folder) / "run", watch))  # noqa: B023
                    shared = RunDirectory(Path(folder) / "run").shared()
                training.append(watch.seconds[1:-1])
                bare_training.append(watch.bare[:-1])
                whole.append(took - sum(watch.bare))
                bare_whole.append(sum(watch.bare))
                same &= all(torch.equal(shared[name], tensor) for name, tensor in watch.by_hand.items())
        size = f"{clients} clients of {samples} images, {settings.base.backbone}, {settings.early.kind}, inline"
        against = "a hand-written loop of the same steps, one thread"
        note = "both end with the same bytes" if same else "the two do NOT end with the same bytes"
        yield Row(f"5 rounds, {size}", against, times(1.05), _fastest(training), _fastest(bare_training), note=note)
        yield Row(f"the run with its evaluations and files, {size}", against, None, min(whole), min(bare_whole))


def _fastest(runs: list[list[float]]) -> float:
    """What a run takes whose every round is as fast as it was in the fastest of these."""
    return sum(map(min, zip(*runs, strict=True)))


def federation(clients: int, samples: int, *changes: str) -> Settings:
    """The settings of a run with five rounds that train and do not evaluate, and a last one that does."""
    rounds = ("rounds.distill=2", "rounds.finetune=3", "rounds.evaluate_every=0")
    sizes = (f"partition.clients={clients}", f"partition.samples={samples}")
    return load(None, [*rounds, *sizes, "engine.kind=inline", "engine.clients_at_once=1", *changes], preset="demo")


def run_inline(settings: Settings, path: Path, watch: Watch) -> None:
    """A whole run, its results written. Raises `RuntimeError` where a client failed."""
    # torch imports its compiler with the first optimiser, 1 to 2 s: a fixed cost, which has a row of its own.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    setup = prepare(settings)
    run = RunDirectory.create(path, settings, setup.partition, setup.identity)
    grid = InlineGrid(app, settings.partition.clients, at_once=1)
    Server(settings, run, watch).federate(grid)
    if watch.faults:
        raise RuntimeError(f"client {watch.faults[0].client}: {watch.faults[0].reason}")


def command(settings: Settings, out: Path) -> list[str | Path]:
    """What this Python is started with for a whole run into `out`, beside which its settings are written."""
    file = out.with_suffix(".toml")
    file.write_text(settings.to_toml(), encoding="utf-8")
    return ["-m", "fed_rebel.cli", "simulate", file, "--out", out]


def round_seconds(run: Path) -> list[tuple[str, float]]:
    """Stage and seconds of each finished round of a run directory; empty where there is none yet."""
    rows = (run / "rounds.jsonl").read_text().splitlines() if (run / "rounds.jsonl").exists() else []
    took = {row["round"]: (row["stage"], row["seconds"]) for row in map(json.loads, rows)}
    return [took[number] for number in sorted(took)]


def timed_rounds(loop: BareLoop) -> Iterator[tuple[float, Tensors]]:
    """How long each round of the loop takes, and what it ends with."""
    rounds = loop.rounds()
    next(rounds)
    while True:
        began = time.perf_counter()
        if (after := next(rounds, None)) is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        yield time.perf_counter() - began, after
