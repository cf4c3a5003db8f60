"""The paper preset on one GPU: ours against the hand-written loop, and several clients on it at once."""

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import mean

import torch

from benchmarks.bare_loop import BareLoop
from benchmarks.federation import Watch, command, round_seconds, run_inline, timed_rounds
from benchmarks.table import Row
from benchmarks.timing import python
from fed_rebel import tensor_file
from fed_rebel.model.resnet import build_base_model
from fed_rebel.settings import Settings, load
from strategy.server import Rows

TRAINING_ROUNDS = 3
"""Distillation, the private pass and fine-tuning: each passes over every client's images once."""
KINDS = {"gmc-diag": 640, "gmc": 320}
"""Images a client."""
AT_ONCE = (2, 5)
ASK = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200")


def rows(quick: bool) -> Iterator[Row]:
    """Images a second of the rounds that train; quick is the same on whatever there is, with tiny networks."""
    if not (quick or torch.cuda.is_available()):
        yield Row("paper preset on a GPU", "a hand-written loop", note="was not run: torch sees no CUDA device here")
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("gmc-diag",) if quick else KINDS:
            settings, watch = _paper(Path(folder), kind, quick), Busy()
            images = TRAINING_ROUNDS * settings.partition.clients * settings.partition.samples
            run_inline(settings, Path(folder) / kind, watch)
            bare = sum(took for took, _ in islice(timed_rounds(BareLoop(settings)), TRAINING_ROUNDS))
            inline = sum(watch.seconds[1:-1])
            size = f"{settings.partition.clients} clients of {settings.partition.samples} images"
            name = f"on {device}: {settings.base.backbone}, {kind}, {size}, {TRAINING_ROUNDS} rounds"
            note = f"{images / inline:,.0f} images/s, by hand {images / bare:,.0f}{watch}"
            yield Row(f"{name}, inline", "a hand-written loop of its steps", None, inline, bare, note=note)
            for at_once in () if quick else AT_ONCE:
                took = _on_ray(settings, Path(folder) / f"{kind}-{at_once}", at_once)
                note = f"{images / took:,.0f} images/s"
                yield Row(f"{name}, {at_once} at once on Ray", "one at a time", None, took, inline, note=note)


def _paper(folder: Path, kind: str, quick: bool) -> Settings:
    """The preset's networks and losses, on embedded images, from random weights: neither changes what a step costs."""
    backbone, clients, samples = ("resnet20", 2, 64) if quick else ("resnet50", 10, KINDS[kind])
    weights = folder / f"{backbone}.safetensors"
    tensor_file.write(weights, build_base_model(backbone, classes=100, seed=0).state_dict())
    changes = {
        "data.name": "glyphs100",
        "base.backbone": backbone,
        "base.weights": weights,
        "warm_start.weights": "none",
        "early.kind": kind,
        "partition.clients": clients,
        "partition.samples": samples,
        "rounds.distill": 1,
        "rounds.finetune": 2,  # the last is evaluated, and is not counted
        "rounds.evaluate_every": 0,
        "engine.kind": "inline",
        "engine.clients_at_once": 1,
    }
    return load(None, [f"{key}={value}" for key, value in changes.items()], preset="paper")


def _on_ray(settings: Settings, out: Path, at_once: int) -> float:
    engine = settings.engine.model_copy(update={"kind": "ray", "clients_at_once": at_once})
    python(command(settings.model_copy(update={"engine": engine}), out))
    return sum(took for _, took in round_seconds(out)[1 : 1 + TRAINING_ROUNDS])


@dataclass
class Busy(Watch):
    """How busy the GPU is in the rounds that train, as its driver tells it."""

    percent: list[int] = field(default_factory=list)

    def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
        """Ask the driver until the round's end."""
        super().round_began(number, rounds, stage, messages)
        self._asking = subprocess.Popen(ASK, stdout=subprocess.PIPE, text=True) if torch.cuda.is_available() else None

    def round_ended(self, rows: Rows) -> None:
        """What it said counts where the round trained."""
        super().round_ended(rows)
        if self._asking:
            self._asking.terminate()
            said = self._asking.communicate()[0].split()
            self.percent += map(int, said) if 1 <= rows[0]["round"] <= TRAINING_ROUNDS else ()

    def __str__(self) -> str:
        if not self.percent:
            return ""
        memory = torch.cuda.max_memory_allocated() / 1e9
        return f"; the GPU was busy {mean(self.percent):.0f} % of the time, with {memory:.1f} GB at most"
