"""The warm start: weights of all parts from which every client begins, in one z space."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fed_rebel import early, tensor_file
from fed_rebel.datasets import Dataset
from fed_rebel.model.rebel import PRIVATE, SHARED, Rebel
from fed_rebel.model.resnet import BaseModel
from fed_rebel.model.twin import twin
from fed_rebel.settings import Early, Settings
from fed_rebel.training import checkpoint
from fed_rebel.training.batches import evaluation_batches, on_cycle, training_batches
from fed_rebel.training.compute import Compute
from fed_rebel.training.stages import Distillation, FineTuning, distill, finetune, noise
from fed_rebel.training.teacher import Teacher

EpochDone = Callable[[str, int, int, dict[str, float]], None]
"""Called after each epoch with the stage, the epoch (from 1), the number of epochs, and the mean losses."""

RANGE_IMAGES = 10_000
"""Of images on whose codes the eight-bit range is fixed: at least so many, where there are, and under twice as many."""


@dataclass(frozen=True)
class WarmStart:
    """Tensors of Head1, the code's range, early classifier, Head2 and Tail, under `part.name`."""

    tensors: tensor_file.Tensors
    early_seed: int
    """The seed of the early classifier's projection, which belongs to its weights."""

    def to_tensors(self) -> tensor_file.Tensors:
        """All of it as the tensors of one file."""
        return self.tensors | {"early_seed": torch.tensor(self.early_seed)}

    @classmethod
    def from_tensors(cls, tensors: tensor_file.Tensors) -> "WarmStart":
        """What `to_tensors` gave, weights of any float type. Raises `ValueError` where it is something else."""
        if "early_seed" not in tensors:
            raise ValueError("it holds no early_seed, so it is no warm start")
        parts = {name: tensor for name, tensor in tensors.items() if name != "early_seed"}
        return cls(
            {name: t.float() if t.is_floating_point() else t for name, t in parts.items()},
            int(tensors["early_seed"]),
        )


def build_model(
    settings: Settings,
    base: BaseModel,
    classes: int,
    early_seed: int,
    compute: Compute,
    tensors: tensor_file.Tensors | None = None,
) -> Rebel:
    """A ReBEL model of these settings, placed: the base model's Tail, its own parts fresh from `settings.seed`.

    `tensors`, under `part.name`, come in the place of those. Raises `ValueError` for one that does not fit.
    """
    return _first(settings.early, base, classes, early_seed, settings.seed, compute).twin_with(tensors or {})


@lru_cache(maxsize=2)
def _first(chosen: Early, base: BaseModel, classes: int, early_seed: int, seed: int, compute: Compute) -> Rebel:
    """The model that a process builds twins of, one for each message to a client; read only."""
    classifier = early.build(
        chosen.kind,
        classes=classes,
        seed=early_seed,
        components=chosen.components,
        projection=chosen.projection,
        parameterisation=chosen.parameterisation,
        posterior=chosen.posterior,
    )
    return compute.place(Rebel(classifier, twin(base.tail), base.head.channels, seed))


def fresh_start(settings: Settings, base: BaseModel, classes: int, compute: Compute) -> WarmStart:
    """Untrained Head1, Head2 and early classifier, the same for all clients, and the base model's Tail."""
    model = build_model(settings, base, classes, settings.seed, compute)
    return WarmStart(tensor_file.on_cpu(model.parts(*PRIVATE, *SHARED)), settings.seed)


def train_warm_start(
    settings: Settings,
    dataset: Dataset,
    indices: np.ndarray,
    base: BaseModel,
    compute: Compute,
    partial: Path,
    epoch_done: EpochDone,
) -> WarmStart:
    """Train all parts on pooled images `indices`: joint distillation, then fine-tuning, each with one-cycle rates.

    BatchNorm sees its batches in both: pooled batches are of no client's world. After each epoch the state goes to
    `partial`, from which an interrupted training goes on; the result is the same as without the interruption.
    """
    warm, seed = settings.warm_start, settings.seed
    model = build_model(settings, base, len(dataset.classes), seed, compute)
    teacher = Teacher.of(base.head, compute)
    joint = Distillation(
        trained=("head1", "head2", "early", "tail"),
        rate=warm.learning_rate,
        early_rate=warm.early_rate,
        loss=settings.loss,
        update_statistics=True,
        task=warm.task,
    )
    finetuning = FineTuning(warm.finetune_rate, update_statistics=True)
    optimisers = adam, sgd = joint.optimiser(model), finetuning.optimiser(model)
    done = checkpoint.restore(partial, model, optimisers)
    for epoch in range(done, warm.epochs):
        batches = _scheduled(dataset, indices, settings, _Purpose.DISTILL, epoch, warm.epochs, adam)
        generator = noise(compute.device, seed, _Purpose.DISTILL, epoch)
        losses = distill(model, teacher.lessons(batches), joint, adam, compute, generator)
        if epoch + 1 == warm.epochs:
            fit_code(model, dataset, indices, compute)
        checkpoint.save(partial, model, optimisers, epoch + 1)
        epoch_done("distillation", epoch + 1, warm.epochs, losses)
    for epoch in range(max(0, done - warm.epochs), warm.finetune_epochs):
        batches = _scheduled(dataset, indices, settings, _Purpose.FINETUNE, epoch, warm.finetune_epochs, sgd)
        generator = noise(compute.device, seed, _Purpose.FINETUNE, epoch)
        losses = finetune(model, batches, finetuning, sgd, compute, generator, None)
        checkpoint.save(partial, model, optimisers, warm.epochs + epoch + 1)
        epoch_done("fine-tuning", epoch + 1, warm.finetune_epochs, losses)
    return WarmStart(tensor_file.on_cpu(model.parts(*PRIVATE, *SHARED)), seed)


def fit_code(model: Rebel, dataset: Dataset, indices: np.ndarray, compute: Compute) -> None:
    """Fix the eight-bit code's range on the codes of N training images: all of fewer than 20,000, else every k-th.

    k = N // 10,000, which leaves 10,000 to 15,000.
    """
    model.code.fit(_codes(model, dataset, indices[:: max(1, len(indices) // RANGE_IMAGES)], compute))


def fit_early(model: Rebel, dataset: Dataset, indices: np.ndarray, compute: Compute) -> None:
    """Fit an early classifier that is not trained to the codes of training images; leave others alone."""
    if isinstance(model.early, early.FittedClassifier):
        model.early.fit(
            _codes(model, dataset, indices, compute).flatten(1), torch.from_numpy(dataset.train.labels[indices])
        )


def _codes(model: Rebel, dataset: Dataset, indices: np.ndarray, compute: Compute) -> Tensor:
    """Posterior means [N, 3, 17, 17] of training images, not augmented, without gradients."""
    with torch.no_grad(), compute.autocast():
        return torch.cat(
            [
                model.head1(images.to(compute.device)).mu
                for images, _ in evaluation_batches(dataset, dataset.train, indices)
            ]
        )


class _Purpose:
    DISTILL, FINETUNE = 103, 104


def _scheduled(
    dataset: Dataset,
    indices: np.ndarray,
    settings: Settings,
    purpose: int,
    epoch: int,
    epochs: int,
    optimiser: torch.optim.Optimizer,
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's batches, of one cycle of learning rates over all epochs."""
    size = settings.warm_start.batch_size
    rng = np.random.default_rng([settings.seed, purpose, epoch])
    batches = training_batches(dataset, indices, size, rng, drop_last=len(indices) >= size)
    steps = max(1, len(indices) // size)
    return on_cycle(batches, optimiser, epoch * steps, epochs * steps)
