"""What every process of a run makes from the settings alone: data, who holds them, and the base model."""

from dataclasses import dataclass
from functools import cached_property

from fed_rebel import tensor_file
from fed_rebel.cost import in_time
from fed_rebel.datasets import Dataset, load
from fed_rebel.exits import Target
from fed_rebel.model.resnet import BaseModel
from fed_rebel.settings import Settings, SettingsError
from fed_rebel.training.allocation import keep_freed_memory
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

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a run's bytes depend on beside its settings, where versions and machine are the same."""
        return {
            "data": self.dataset.fingerprint,
            "partition": self.partition.fingerprint,
            "base_model": tensor_file.fingerprint(self.base.state_dict()),
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
    return dataset, partition
