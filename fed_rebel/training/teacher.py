"""What the frozen Head says of training images, the target of the mimic loss: computed in each step, or kept."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor, nn

from fed_rebel.model.resnet import Head
from fed_rebel.model.twin import twin
from fed_rebel.training.compute import Compute
from fed_rebel.training.folding import fold
from fed_rebel.training.stages import Batches, Lessons

MOST_KEPT = 2**30
"""Bytes of features that a process keeps at most."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """The frozen Head of a base model."""

    head: nn.Module
    channels: int
    compute: Compute

    @classmethod
    def of(cls, head: Head, compute: Compute) -> "Teacher":
        """A Head in evaluation mode, on the device of `compute`."""
        return cls(fold(twin(head)).requires_grad_(False), head.channels, compute)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] to features [B, channels, 16, 16], on the device and in the precision of `compute`."""
        with self.compute.autocast():
            features: Tensor = self.head(images.to(self.compute.device))
        return features

    def lessons(self, batches: Batches) -> Lessons:
        """The batches, each with its features."""
        return ((images, labels, self(images)) for images, labels in batches)

    @property
    def bytes_of_image(self) -> int:
        """Size of an image's features."""
        return self.channels * 16 * 16 * (2 if self.compute.bfloat16 else 4)

    def can_keep(self, images: int) -> bool:
        """Whether the features of so many images are few enough to be kept."""
        return images * self.bytes_of_image <= MOST_KEPT

    def kept(self, key: Hashable, batches: Callable[[], Batches]) -> Tensor:
        """Features [N, channels, 16, 16] of batches that are the same whenever the key is, kept while there is room.

        They are always computed in these batches, so that no bit says whether they were kept. Where there is no room
        the newest make it: the oldest are those that are asked for again first. A process keeps one teacher's.
        """
        with _lock:
            if (found := _kept.get((self, key))) is not None:
                return found
        found = torch.cat([self(images) for images, _ in batches()])
        with _lock:
            for stale in [other for other in _kept if other[0] is not self]:
                del _kept[stale]
            while _kept and sum(features.nbytes for features in _kept.values()) + found.nbytes > MOST_KEPT:
                _kept.popitem()
            _kept[self, key] = found
        return found


_kept: dict[tuple[Teacher, Hashable], Tensor] = {}
_lock = Lock()
"""The inline engine's clients are threads of one process."""
