"""The order in which a training step meets images."""

from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor, from_numpy
from torch.optim import Optimizer

from fed_rebel.datasets import Dataset, Split, augment


def training_batches(
    dataset: Dataset, indices: np.ndarray, size: int, rng: np.random.Generator, *, drop_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of augmented, normalised batches: images [B, 3, 32, 32] float32, labels [B] int64."""
    order = rng.permutation(indices)
    stop = len(order) - len(order) % size if drop_last else len(order)
    for start in range(0, stop, size):
        chosen = order[start : start + size]
        crops = augment.Crops.draw(rng, len(chosen), dataset.flip)
        images = augment.batch(dataset.train.images[chosen], dataset.normalisation, crops)
        yield images, from_numpy(dataset.train.labels[chosen])


def evaluation_batches(
    dataset: Dataset, split: Split, indices: np.ndarray, size: int = 250, view: augment.Crops | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised batches of a split's images, in the order of `indices`: as `training_batches`, but nothing is drawn.

    With a `view`, which has a crop for every image of the split, the images are cropped as it says.
    """
    for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        crops = None if view is None else view[chosen]
        images = augment.batch(split.images[chosen], dataset.normalisation, crops)
        yield images, from_numpy(split.labels[chosen])


def fixed_view(dataset: Dataset, seed: int, number: int) -> augment.Crops | None:
    """How every training image is cropped in one of its fixed views: number 0 is the image as it is, the others are
    drawn from the run's seed."""
    if number == 0:
        return None
    rng = np.random.default_rng(np.random.SeedSequence([seed, number], spawn_key=tuple(b"view")))
    return augment.Crops.draw(rng, len(dataset.train), dataset.flip)


def on_cycle(
    batches: Iterable[tuple[Tensor, Tensor]], optimiser: Optimizer, first: int, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches; before each is given out the learning rates are set to their place in a cycle of `steps`.

    The first batch is step `first` of the cycle; the rates that the optimiser was made with are its peaks.
    """
    for group in optimiser.param_groups:
        group.setdefault("peak", group["lr"])
    for step, batch in enumerate(batches, start=first):
        for group in optimiser.param_groups:
            group["lr"] = one_cycle(step, steps, group["peak"])
        yield batch


def one_cycle(step: int, steps: int, peak: float, warm_up: float = 0.2) -> float:
    """Learning rate at a step: up to `peak` over the first `warm_up` of all steps, then down to 0, both linear."""
    done = (step + 1) / (steps + 1)
    return peak * min(done / warm_up, (1 - done) / (1 - warm_up))
