"""What every process of a run makes from the settings alone: data, who holds them, and the base model."""

from dataclasses import dataclass

from fed_rebel.datasets import Dataset, load
from fed_rebel.model.resnet import BaseModel
from fed_rebel.settings import Settings
from fed_rebel.training.base import EpochDone
from fed_rebel.training.compute import Compute, choose_compute
from fed_rebel.training.pretrained import base_model
from partitions import Partition, deal


@dataclass(frozen=True, eq=False)
class Setup:
    """Server, clients and simulator each prepare it for themselves; it is the same wherever it is prepared."""

    dataset: Dataset
    partition: Partition
    base: BaseModel
    compute: Compute


def prepare(settings: Settings, base_epoch_done: EpochDone | None = None) -> Setup:
    """The data set, its partition and the base model. Raises `ValueError` for bad settings or data.

    A process prepares the same settings once: `base_epoch_done` hears of the base model's training the first time.
    """
    if (ready := _ready.get(settings)) is None:
        ready = _ready[settings] = _prepare(settings, base_epoch_done or (lambda *_: None))
    return ready


_ready: dict[Settings, Setup] = {}


def _prepare(settings: Settings, base_epoch_done: EpochDone) -> Setup:
    dataset = load(settings.data.name, settings.data.dir or None)
    chosen = settings.partition
    partition = deal(
        dataset.train.labels,
        dataset.test.labels,
        classes=len(dataset.classes),
        kind=chosen.kind,
        clients=chosen.clients,
        alpha=chosen.alpha,
        samples=chosen.samples,
        classes_per_client=chosen.classes,
        quantity=chosen.quantity,
        quantity_skew=chosen.quantity_skew,
        seed=settings.seed,
    )
    compute = choose_compute(settings.engine)
    return Setup(dataset, partition, base_model(settings, dataset, compute, base_epoch_done), compute)
