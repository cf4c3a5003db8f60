"""What every process of a run makes from the settings alone: data, who holds them, and the base model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fed_rebel import tensor_file
from fed_rebel.cost import in_time
from fed_rebel.datasets import Dataset, Form, load, own
from fed_rebel.exits import Target
from fed_rebel.exits.rows import client_rows, server_answers
from fed_rebel.model.resnet import BaseModel
from fed_rebel.settings import Settings, SettingsError
from fed_rebel.training.allocation import keep_freed_memory
from fed_rebel.training.base import EpochDone
from fed_rebel.training.compute import Compute, choose_compute
from fed_rebel.training.pretrained import base_model
from fed_rebel.training.teacher import Teacher
from partitions import Partition, Shard, deal, hold_out, label_histogram


@dataclass(frozen=True, eq=False)
class Setup:
    """Server, clients and simulator each prepare it for themselves; it is the same wherever it is prepared."""

    dataset: Dataset
    partition: Partition
    base: BaseModel
    compute: Compute

    @cached_property
    def teacher(self) -> Teacher:
        """The base model's Head."""
        return Teacher.of(self.base.head, self.compute)

    @property
    def base_fingerprint(self) -> str:
        """Of the base model."""
        return tensor_file.fingerprint(self.base.state_dict())

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a run's bytes depend on beside its settings, where versions and machine are the same."""
        return {
            "data": self.dataset.fingerprint,
            "partition": self.partition.fingerprint,
            "base_model": self.base_fingerprint,
            "device": self.compute.device.type,
            "precision": "bfloat16" if self.compute.bfloat16 else "float32",
        }


def target_of(settings: Settings) -> Target:
    """What thresholds are calibrated for. Raises `ValueError` for a target that is none, or that cannot be met."""
    exits = settings.exits
    target = Target.parse(exits.target)
    if settings.method != "rebel" or settings.early.kind == "none":
        return Target("never")
    try:
        return in_time(target, exits.model_dump())
    except ValueError as error:
        raise SettingsError(f"exits.target = '{target}': {error}") from None


def measure(settings: Settings, records: Sequence[Mapping[str, Any]], predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of `clients.csv` of clients with these records and predictions, as the settings want them calibrated."""
    exits, server = settings.exits, server_answers(settings.exits.model_dump())
    target = target_of(settings)
    return client_rows(records, predictions, target, server=server, by_class=exits.by_class, pool=exits.pooled)


def prepare(settings: Settings, base_epoch_done: EpochDone | None = None) -> Setup:
    """The data set, its partition and the base model. Raises `ValueError` for bad settings or data.

    A process prepares the same settings once: `base_epoch_done` hears of the base model's training the first time.
    """
    if (ready := _ready.get(settings)) is None:
        if len(_ready) >= MOST_READY:
            _ready.pop(next(iter(_ready)))
        ready = _ready[settings] = _prepare(settings, base_epoch_done or (lambda *_: None))
    return ready


_ready: dict[Settings, Setup] = {}
MOST_READY = 8
"""A sweep prepares many settings one after another: the oldest goes, with its base model."""


def _prepare(settings: Settings, base_epoch_done: EpochDone) -> Setup:
    keep_freed_memory()
    dataset, partition = deal_data(settings)
    compute = choose_compute(settings.engine)
    return Setup(dataset, partition, base_model(settings, dataset, compute, base_epoch_done), compute)


def deal_data(settings: Settings) -> tuple[Dataset, Partition]:
    """The data set and who holds which of its images: what can be checked of settings before anything is trained.

    Raises `ValueError` for bad settings or data.
    """
    target_of(settings)
    dataset = load(settings.data.name, settings.data.dir or None)
    if not settings.data.flip:
        dataset = dataset.without_flip()
    chosen, classes = settings.partition, len(dataset.classes)
    if chosen.kind == "own":
        held = hold_out(dataset.train.labels, classes)[1]
        return dataset, Partition((), held, np.empty((0, classes), dtype=np.int64))
    partition = deal(
        dataset.train.labels,
        dataset.test.labels,
        classes=classes,
        kind=chosen.kind,
        clients=chosen.clients,
        alpha=chosen.alpha,
        samples=chosen.samples,
        classes_per_client=chosen.classes,
        quantity=chosen.quantity,
        quantity_skew=chosen.quantity_skew,
        seed=settings.seed,
    )
    return dataset, partition


def prepare_own(settings: Settings, path: Path, form: Form, client: int, folder: Path) -> Setup:
    """The same for a client that brings its own images: they are its only shard, and are kept mapped in `folder`.

    Of each class every fourth training image, 50 at most, validates and is not trained on; all test images test.
    Raises `ValueError` for data that are missing, too few, or do not fit the form of the server's.
    """
    dataset, compute = own.load(path, form, folder), choose_compute(settings.engine)
    train, held = hold_out(dataset.train.labels, len(form.classes))
    if not len(held):
        raise ValueError(f"{path}: no class has 4 training images; one in four is held back to calibrate thresholds")
    shard = Shard(client, train, held, np.arange(len(dataset.test)))
    counts = label_histogram(dataset.train.labels[train], len(form.classes))[np.newaxis]
    base = base_model(settings, dataset, compute, lambda *_: None)
    return Setup(dataset, Partition((shard,), held, counts), base, compute)
