"""From the command to the end of the first local step, against the imports that it cannot do without."""

import signal
import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, more
from benchmarks.timing import python, start

IMPORTS = """import torch, pandas, flwr.clientapp, flwr.serverapp
torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
"""
"""The optimiser imports more of torch."""
RAY = """import ray, torch, pandas, flwr.clientapp, flwr.serverapp
ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
@ray.remote
class Actor:
    def ready(self):
        import torch, flwr.clientapp
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
ray.get(Actor.remote().ready.remote())
"""
AGAINST = {
    "inline": (IMPORTS, "importing torch, with an optimiser, pandas and Flower", 1),
    "ray": (RAY, "the same imports, ray.init, and an actor that imports torch", 3),
}
TINY = ("warm_start.weights=none", "rounds.warm_start=1", "partition.clients=1", "partition.samples=10")
"""One client that begins with a training step."""


def rows(quick: bool) -> list[Row]:
    """On each engine; the least of their turns."""
    found = []
    for engine, (code, against, goal) in AGAINST.items():
        if quick and engine == "ray":
            continue
        turns = [(_first_round(engine), python(["-c", code]).seconds) for _ in range(1 if quick else 3)]
        ours, theirs = (min(turn) for turn in zip(*turns, strict=True))
        found.append(Row(f"fixed cost of a run, {engine}", against, more(goal), ours, theirs))
    return found


def _first_round(engine: str) -> float:
    """Seconds from the command until the round after the first, which is one step of one client, begins."""
    changes = [word for change in TINY for word in ("--set", change)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.perf_counter()
        process = start(["-m", "fed_rebel.cli", "simulate", "--engine", engine, "--out", out, *changes])
        try:
            while not (out / "rounds" / "0001").exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the run ended in its first round: {process.communicate()[0]}")
                time.sleep(0.005)
            took = time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGINT)  # Ray's processes end with it
            process.communicate()
    return took
