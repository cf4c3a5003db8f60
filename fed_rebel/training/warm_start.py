"""The warm start: weights of all parts from which every client begins, in one z space."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fed_rebel import early, tensor_file
from fed_rebel.datasets import Dataset
from fed_rebel.model.rebel import PRIVATE, SHARED, Rebel
from fed_rebel.model.resnet import BaseModel
from fed_rebel.settings import Settings
from fed_rebel.training.batches import evaluation_batches, one_cycle, training_batches
from fed_rebel.training.compute import Compute
from fed_rebel.training.stages import Batches, Distillation, FineTuning, distill, finetune, noise

EpochDone = Callable[[str, int, int, dict[str, float]], None]
"""Called after each epoch with the stage, the epoch (from 1), the number of epochs, and the mean losses."""

RANGE_IMAGES = 10_000
"""Images at most on whose codes the eight-bit range is fixed."""


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


def build_model(settings: Settings, base: BaseModel, classes: int, early_seed: int) -> Rebel:
    """A ReBEL model of these settings on the base model's Tail, its own parts fresh from `settings.seed`."""
    classifier = early.build(
        settings.early.kind,
        classes=classes,
        seed=early_seed,
        components=settings.early.components,
        projection=settings.early.projection,
        parameterisation=settings.early.parameterisation,
        posterior=settings.early.posterior,
    )
    return Rebel(classifier, copy.deepcopy(base.tail), base.head.channels, settings.seed)


def fresh_start(settings: Settings, base: BaseModel, classes: int) -> WarmStart:
    """Untrained Head1, Head2 and early classifier, the same for all clients, and the base model's Tail."""
    model = build_model(settings, base, classes, settings.seed)
    return WarmStart(model.parts(*PRIVATE, *SHARED), settings.seed)


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

    BatchNorm sees its batches in both: pooled batches are of no client's world. What is distilled goes to `partial`,
    from which an interrupted training goes on.
    """
    warm, seed = settings.warm_start, settings.seed
    model = compute.place(build_model(settings, base, len(dataset.classes), seed))
    if partial.exists():
        model.load_parts(tensor_file.read(partial))
    else:
        _distill_pooled(model, settings, dataset, indices, base, compute, epoch_done)
        fit_code(model, dataset, indices, compute)
        tensor_file.write(partial, model.parts(*PRIVATE, *SHARED))
    finetuning = FineTuning(warm.finetune_rate, update_statistics=True)
    generator = noise(compute.device, seed, _Purpose.NOISE, 1)
    sgd = finetuning.optimiser(model)
    for epoch in range(warm.finetune_epochs):
        batches = _batches(dataset, indices, settings, _Purpose.FINETUNE, epoch)
        scheduled = _one_cycle(batches, sgd, epoch, warm.finetune_epochs, max(1, len(indices) // warm.batch_size))
        losses = finetune(model, scheduled, finetuning, sgd, compute, generator, None)
        epoch_done("fine-tuning", epoch + 1, warm.finetune_epochs, losses)
    return WarmStart({name: t.cpu() for name, t in model.parts(*PRIVATE, *SHARED).items()}, seed)


def _distill_pooled(
    model: Rebel,
    settings: Settings,
    dataset: Dataset,
    indices: np.ndarray,
    base: BaseModel,
    compute: Compute,
    epoch_done: EpochDone,
) -> None:
    warm = settings.warm_start
    stage = Distillation(
        trained=("head1", "head2", "early", "tail"),
        rate=warm.learning_rate,
        early_rate=warm.early_rate,
        loss=settings.loss,
        update_statistics=True,
        task=warm.task,
    )
    optimiser = stage.optimiser(model)
    generator = noise(compute.device, settings.seed, _Purpose.NOISE)
    for epoch in range(warm.epochs):
        batches = _batches(dataset, indices, settings, _Purpose.DISTILL, epoch)
        scheduled = _one_cycle(batches, optimiser, epoch, warm.epochs, max(1, len(indices) // warm.batch_size))
        losses = distill(model, base.head, scheduled, stage, optimiser, compute, generator)
        epoch_done("distillation", epoch + 1, warm.epochs, losses)


def codes_of(model: Rebel, dataset: Dataset, indices: np.ndarray, compute: Compute) -> tuple[Tensor, Tensor]:
    """Posterior means [N, 3, 17, 17] and labels [N] of training images, not augmented, without gradients."""
    codes, labels = [], []
    with torch.no_grad(), compute.autocast():
        for images, of_images in evaluation_batches(dataset, dataset.train, indices):
            codes.append(model.head1(images.to(compute.device)).mu)
            labels.append(of_images)
    return torch.cat(codes), torch.cat(labels)


def fit_code(model: Rebel, dataset: Dataset, indices: np.ndarray, compute: Compute) -> None:
    """Fix the eight-bit code's range on the codes of training images, of at most 10,000 of them."""
    some = indices[:: max(1, len(indices) // RANGE_IMAGES)]
    model.code.fit(codes_of(model, dataset, some, compute)[0])


def remote_accuracy(model: Rebel, dataset: Dataset, compute: Compute) -> float:
    """The share of the data set's test images that Head2 and Tail label rightly, through the model's Head1 and code."""
    everything, right = np.arange(len(dataset.test)), 0
    model.eval()
    with torch.inference_mode(), compute.autocast():
        for images, labels in evaluation_batches(dataset, dataset.test, everything):
            logits = model.remote_logits(model.code(model.head1(images.to(compute.device)).mu))
            right += int((logits.argmax(1).cpu() == labels).sum())
    return right / len(everything)


class _Purpose:
    NOISE, DISTILL, FINETUNE = 100, 103, 104


def _batches(dataset: Dataset, indices: np.ndarray, settings: Settings, purpose: int, epoch: int) -> Batches:
    size = settings.warm_start.batch_size
    rng = np.random.default_rng([settings.seed, purpose, epoch])
    return training_batches(dataset, indices, size, rng, drop_last=len(indices) >= size)


def _one_cycle(
    batches: Batches, optimiser: torch.optim.Optimizer, epoch: int, epochs: int, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; before each is given out the learning rates are set to their place in the cycle."""
    for group in optimiser.param_groups:
        group.setdefault("peak", group["lr"])
    for step, batch in enumerate(batches, start=epoch * steps):
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step, epochs * steps, group["peak"])
        yield batch
