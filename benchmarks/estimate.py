"""What a run on a Ray cluster would take, computed from what its parts take on this machine.

    python -m benchmarks.estimate --clients 10000 --images 500 --rounds 20 --machines 16 --cores 32

Measured here: a training image of each stage and an evaluation, on one core; what a client costs beside its images on
Ray, at its actor and at the server; the bytes of its messages and files; the memory of processes. The rest is computed
from them. The cluster's cores are taken to be as fast as this machine's, and all of them to be at work.
"""

import argparse
import signal
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import fed_rebel.launch  # noqa: F401 - sets Flower's and Ray's environment before they are imported
from benchmarks.federation import command, federation, round_seconds
from benchmarks.timing import Finished, start, wait
from fed_rebel.report import read_rounds
from strategy.plan import plan

SAMPLES = 600
"""Images of the clients whose images are most of what they cost."""
FEW, MANY, STEP, LONG = 16, 64, 10, 300
"""Clients with one step of so many images, whose images are the least of it; images of the few where the server waits.
"""
CORES = 2
ROUNDS = {"distill": 2, "private_pass": 1, "finetune": 2}
"""Rounds that are not evaluated."""


@dataclass(frozen=True)
class Measured:
    """On this machine."""

    distill: float
    """Core-seconds a training image."""
    finetune: float
    evaluation: float
    """Core-seconds of a client's last evaluation, on the whole test set too."""
    at_actor: float
    """Core-seconds a client and round beside its images."""
    at_server: float
    """Seconds of the server a client and round: it serves one after another."""
    exchanged: float
    """Bytes of a client's messages in a round of fine-tuning, both ways."""
    kept: float
    """Bytes of a client's private state."""
    memory: float
    """Megabytes of a process that trains."""


@dataclass(frozen=True)
class Run:
    """A finished one."""

    seconds: dict[str, float]
    """Of the rounds of a stage that are not evaluated, their mean."""
    process: Finished
    evaluation: float
    exchanged: float
    kept: float


def measure() -> Measured:
    """One run in this process; three on Ray, whose differences are what so many more clients cost, and what the server
    takes to look for replies while it waits: where it is the limit, it never waits."""
    images = _run("inline", 2, SAMPLES)
    image = {stage: seconds / (2 * SAMPLES) for stage, seconds in images.seconds.items()}
    few, many, waiting = _run("ray", FEW, STEP), _run("ray", MANY, STEP), _run("ray", FEW, LONG)
    rounds = sum(ROUNDS.values()) * (MANY - FEW)
    took = sum(number * (many.seconds[stage] - few.seconds[stage]) for stage, number in ROUNDS.items())
    trained = sum(number * STEP * (MANY - FEW) * image[stage] for stage, number in ROUNDS.items())
    looking = (waiting.process.cpu_seconds - few.process.cpu_seconds) / (waiting.process.seconds - few.process.seconds)
    longer = many.process.seconds - few.process.seconds
    at_server = (many.process.cpu_seconds - few.process.cpu_seconds - longer * looking) / rounds
    return Measured(
        distill=image["distill"],
        finetune=image["finetune"],
        evaluation=images.evaluation / 2,
        at_actor=max(0.0, (CORES * took - trained) / rounds - at_server),
        at_server=at_server,
        exchanged=images.exchanged,
        kept=images.kept,
        memory=images.process.megabytes,
    )


def _run(engine: str, clients: int, samples: int) -> Run:
    """On Ray without the last round, in which every client looks at the whole test set."""
    at_once = 1 if engine == "inline" else CORES
    settings = federation(clients, samples, f"engine.kind={engine}", f"engine.clients_at_once={at_once}")
    with tempfile.TemporaryDirectory() as folder:
        out, began = Path(folder) / "run", time.perf_counter()
        process = start(command(settings, out))
        while engine == "ray" and process.poll() is None and len(round_seconds(out)) < len(plan(settings)) - 1:
            time.sleep(0.1)
        if engine == "ray":
            process.send_signal(signal.SIGINT)
        ended = wait(process, began)
        kept = (out / "current" / "private" / "0.safetensors").stat().st_size
        took, rows = round_seconds(out), read_rounds(out / "rounds.jsonl")
    stages = {stage: [s for of, s in took[: len(plan(settings)) - 1] if of == stage] for stage in ROUNDS}
    seconds = {stage: mean(of_stage) for stage, of_stage in stages.items()}
    finetuned = rows[rows["stage"] == "finetune"].iloc[0]
    exchanged = finetuned["bytes_down"] + finetuned["bytes_up"]
    return Run(seconds, ended, took[-1][1] - seconds["finetune"], exchanged, kept)


def estimate(m: Measured, clients: int, images: int, rounds: int, machines: int, cores: int) -> list[tuple[str, str]]:
    """What a run of so many clients of so many images takes, half of its rounds distillation and half fine-tuning."""
    actors, found = machines * cores, []
    whole = 0.0
    for stage, image in (("distillation", m.distill), ("fine-tuning", m.finetune)):
        training, fixed = clients * images * image / actors, clients * m.at_actor / actors
        server = clients * m.at_server
        took = max(training + fixed, server)
        whole += took * rounds / 2
        parts = f"actors {training + fixed:,.0f} s, of it {fixed:,.0f} s beside the images; server {server:,.0f} s"
        found.append((f"a round of {stage}", f"{took:,.0f} s ({parts})"))
    evaluation = max(clients * m.evaluation / actors, clients * m.at_server)
    gigabits = 8 * clients * m.exchanged / 1e9
    return [
        *found,
        ("the last evaluation", f"{evaluation:,.0f} s"),
        (f"{rounds} rounds and the last evaluation", f"{(whole + evaluation) / 3600:.1f} h"),
        ("messages of a round of fine-tuning", f"{gigabits / 8:,.0f} GB, {gigabits / 10:,.0f} s at 10 Gbit/s"),
        ("private states on the shared disk", f"{2 * clients * m.kept / 1e9:,.1f} GB, those of two rounds"),
        ("memory of a machine", f"{cores * m.memory / 1e3:,.0f} GB for {cores} actors"),
    ]


def main() -> None:
    """Measure, compute, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("clients", 10_000), ("images", 500), ("rounds", 20), ("machines", 16), ("cores", 32)):
        parser.add_argument(f"--{name}", type=int, default=usual, help=f"{usual} by default")
    given, measured = vars(parser.parse_args()), measure()
    for name, value in asdict(measured).items():
        print(f"{name:12} {value:.6g}")
    print("\n| | |\n| --- | --- |")
    for what, much in estimate(measured, **given):
        print(f"| {what} | {much} |")


if __name__ == "__main__":
    main()
