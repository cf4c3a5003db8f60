"""The two halves of a finished run's model: what a client's device holds, and what the server serves."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fed_rebel import tensor_file
from fed_rebel.datasets import Normalisation, Split, load
from fed_rebel.early import EarlyClassifier
from fed_rebel.exits import Outcomes, Stack, Thresholds
from fed_rebel.exits.rows import ANSWERS, ServerAnswers, server_answers
from fed_rebel.model.code import EightBitCode
from fed_rebel.model.heads import CODE_SHAPE, Head1, Head2
from fed_rebel.model.rebel import PRIVATE, SHARED
from fed_rebel.model.resnet import build_base_model
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings, SettingsError
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.compute import Compute, choose_compute
from fed_rebel.training.pretrained import load_into
from fed_rebel.training.setup import target_of
from fed_rebel.training.stages import noise
from fed_rebel.training.warm_start import WarmStart, build_model
from partitions import Partition, smoothed_shares

STACKED = ("remote", "local", "prior")
"""Whose log-probabilities a client's `stack_*` of `clients.csv` weigh."""


@dataclass(frozen=True, eq=False)
class ServerPart:
    """A network on codes that devices send at eight bits."""

    network: nn.Module
    """Codes [B, *shape] to logits [B, C], in evaluation mode on the device of `compute`."""
    shape: tuple[int, int, int]
    """Of a code; channels, height, width."""
    classes: int
    fingerprint: bytes
    """SHA-256 of the network's tensors, 32 bytes."""
    compute: Compute

    @property
    def code_size(self) -> int:
        """Values in a code, and bytes at eight bits."""
        channels, height, width = self.shape
        return channels * height * width

    def logits(self, codes: Tensor) -> Tensor:
        """What the server makes of codes [B, *shape] that came through the eight bits: float32 [B, C], on the CPU."""
        with torch.inference_mode(), self.compute.autocast():
            logits: Tensor = self.network(codes.to(self.compute.device))
        return logits.float().cpu()


@dataclass(frozen=True, eq=False)
class DevicePart:
    """All that a client's device needs to answer alone, and to ask a server."""

    client: int
    head1: Head1
    code: EightBitCode
    early: EarlyClassifier
    thresholds: Thresholds
    """Calibrated on the client's validation images."""
    server_answers: ServerAnswers
    """What the thresholds were calibrated with, and the device makes of the server's answers."""
    log_shares: Tensor
    """float32 [C]: log of the client's smoothed label shares."""
    stack: Stack
    classes: tuple[str, ...]
    normalisation: Normalisation
    fingerprint: bytes
    """That of the server's part it was trained with, 32 bytes."""
    compute: Compute
    threads: int
    """Of torch, as in the run (`engine.threads`)."""
    noise: torch.Generator | None
    """Where the run's codes are samples (`exits.code`): what they are drawn with."""


def server_part(path: Path) -> ServerPart:
    """Head2 and Tail of a finished run. Raises `ValueError` where there is none that can be served."""
    run, settings = _open(path)
    shared, compute = run.shared(), choose_compute(settings.engine)
    classes = len(shared["tail.fc.bias"])
    base = build_base_model(settings.base.backbone, classes, seed=0)
    server = nn.Sequential(Head2(base.head.channels), base.tail)
    for part, module in zip(SHARED, server, strict=True):
        load_into(module, tensor_file.part(part, shared), str(run.path / "shared.safetensors"))
    return ServerPart(compute.place(server).eval(), CODE_SHAPE, classes, _fingerprint(shared), compute)


def device_part(path: Path, client: int) -> DevicePart:
    """Head1, code range, early classifier and thresholds of a client of a finished run.

    Raises `ValueError` where there is no such client, or its part is damaged.
    """
    run, settings = _open(path)
    row = _row(run, client)
    if (kept := run.path / "private" / f"{client}.sha256").exists():
        raise SettingsError(
            f"{kept}: client {client} of this deployment has its private part on its own disk; no device is made of it"
        )
    own = tensor_file.read(run.path / "private" / f"{client}.safetensors")
    if statistics := [name for name in own if name.split(".", 1)[0] in SHARED]:
        raise SettingsError(
            f"{path}: base.batch_norm = '{settings.base.batch_norm}': client {client} has {statistics[0]} of its own, "
            "which one server for all cannot serve; allowed: a run with 'frozen' or 'aggregate'"
        )
    shared, dataset = run.shared(), load(settings.data.name, settings.data.dir or None)
    early_seed = WarmStart.from_tensors(tensor_file.read(run.path / "warm_start.safetensors")).early_seed
    compute = choose_compute(settings.engine)
    base = build_base_model(settings.base.backbone, len(dataset.classes), seed=0)
    tensors = {name: tensor for name, tensor in own.items() if name.split(".", 1)[0] in PRIVATE} | shared
    model = build_model(settings, base, len(dataset.classes), early_seed, compute, tensors).eval()
    counts = Partition.load(run.path / "partition.npz").label_counts[client]
    answers = server_answers(settings.exits.model_dump())
    sampled = settings.exits.code == "sampled"
    return DevicePart(
        client=client,
        head1=model.head1,
        code=model.code,
        early=model.early,
        thresholds=_thresholds(run, settings, row),
        server_answers=answers,
        log_shares=torch.from_numpy(smoothed_shares(counts)).float().log(),
        stack=Stack(*(float(row[f"stack_{of}"]) for of in STACKED)) if answers == "stacked" else Stack(),
        classes=dataset.classes,
        normalisation=dataset.normalisation,
        fingerprint=_fingerprint(shared),
        compute=compute,
        threads=settings.engine.threads,
        noise=noise(compute.device, settings.seed, client) if sampled else None,
    )


def own_test_images(path: Path, client: int) -> tuple[NDArray[np.int64], Split]:
    """The client's test shard: its images' places among the data set's test images, and those images."""
    run, settings = _open(path)
    test = load(settings.data.name, settings.data.dir or None).test
    for shard in Partition.load(run.path / "partition.npz").shards:
        if shard.client == client:
            return shard.test, Split(test.images[shard.test], test.labels[shard.test])
    raise SettingsError(f"--client {client}: not in {run.path}")


def _open(path: Path) -> tuple[RunDirectory, Settings]:
    run, settings = RunDirectory.open(path)
    if settings.method != "rebel":
        raise SettingsError(f"{path}: method = '{settings.method}' has no code to send; allowed: a run of 'rebel'")
    if not run.finished:
        raise SettingsError(f"{path}: not finished (no clients.csv); finish it with: fed-rebel resume {path}")
    return run, settings


def _row(run: RunDirectory, client: int) -> dict[str, str]:
    """The client's row of `clients.csv` or `newcomers.csv`, as it is written: no parser rounds a threshold."""
    rows: dict[str, dict[str, str]] = {}
    for table in (run.path / "clients.csv", run.path / "newcomers.csv"):
        if table.is_file():
            with table.open(encoding="utf-8", newline="") as lines:
                rows |= {row["client"]: row for row in csv.DictReader(lines)}
    if str(client) not in rows:
        raise SettingsError(f"--client {client}: not in {run.path}; allowed: {', '.join(rows)}")
    return rows[str(client)]


def _thresholds(run: RunDirectory, settings: Settings, row: dict[str, str]) -> Thresholds:
    """The client's threshold, and with `exits.by_class` those of single labels, which stand in no file: found again."""
    common = float(row["threshold"])
    if not settings.exits.by_class or row["threshold_pooled"] == "True":
        return Thresholds(common)
    predictions = pd.read_parquet(run.path / "predictions.parquet")
    own = predictions[(predictions["client"] == int(row["client"])) & (predictions["split"] == "val")]
    if own.empty:
        raise SettingsError(
            f"--client {row['client']}: a newcomer, whose thresholds by label (exits.by_class) no file holds; allowed: "
            f"0 to {settings.partition.members - 1}"
        )
    column = ANSWERS[server_answers(settings.exits.model_dump())]
    return Outcomes.of(own, column).thresholds(target_of(settings), by_class=True)


def _fingerprint(shared: Tensors) -> bytes:
    served = {name: tensor for name, tensor in shared.items() if name.split(".", 1)[0] in SHARED}
    return bytes.fromhex(tensor_file.fingerprint(served))
