"""Images grouped by class, from which clients are handed theirs."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from partitions.skew import label_histogram


@dataclass(frozen=True, eq=False)
class Pool:
    """A circle of images for each class, in random order."""

    images: NDArray[np.int64]  # (n,) indices into the data set, class after class
    stock: NDArray[np.int64]  # (C,) images of each class

    @classmethod
    def shuffled(
        cls, labels: NDArray[np.integer], images: NDArray[np.int64], classes: int, rng: np.random.Generator
    ) -> "Pool":
        """The pool of `images`, indices into `labels`, in an order drawn from `rng`."""
        images = rng.permutation(images)
        return cls(images[np.argsort(labels[images], kind="stable")], label_histogram(labels[images], classes))

    def take(self, counts: NDArray[np.int64], offsets: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """For each client `counts` images of each class, from place `offsets` of the circle on.

        Both are (clients, C); counts are no more than the stock, so no image occurs twice with one client.
        One client's images, ascending, are a simple random sample of each class, because the circles were
        shuffled; whether two clients can get the same image is up to the offsets.
        """
        clients, classes = np.nonzero(counts)  # where skew is strong these are few of all cells
        each = counts[clients, classes]
        within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each - offsets[clients, classes], each)
        start = np.cumsum(self.stock) - self.stock
        images = self.images[np.repeat(start[classes], each) + within % np.repeat(self.stock[classes], each)]
        numbers, span = counts.sum(axis=1), images.max(initial=0) + 1
        images = np.sort(np.repeat(np.arange(len(counts)), numbers) * span + images) % span  # one sort for all clients
        bounds = np.concatenate([[0], np.cumsum(numbers)])
        return [images[a:b] for a, b in pairwise(bounds)]
