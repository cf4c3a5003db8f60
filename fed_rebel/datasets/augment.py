"""Batches of images as the networks take them: cropped, mirrored and normalised a batch at a time."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from fed_rebel.datasets.images import SIDE, Normalisation

PADDING = 4
"""Black pixels around an image from which a crop is taken."""


@dataclass(frozen=True, eq=False)
class Crops:
    """How each of N images is cropped and mirrored (He et al. 2016, Sec. 4.2)."""

    corner: np.ndarray
    """int64 [2, N]: the crop's upper row and left column in the padded image, 0 to 8; at (4, 4) is the image itself."""
    mirrored: np.ndarray
    """bool [N]"""

    @classmethod
    def draw(cls, rng: np.random.Generator, number: int, flip: bool) -> Self:
        """At random, all at once; if `flip`, each is mirrored with probability 1/2."""
        corner = rng.integers(0, 2 * PADDING + 1, (2, number))
        return cls(corner, rng.random(number) < 0.5 if flip else np.zeros(number, np.bool_))

    def __getitem__(self, rows: np.ndarray) -> "Crops":
        """Those of some of the images."""
        return Crops(self.corner[:, rows], self.mirrored[rows])


def batch(images: np.ndarray, normalisation: Normalisation, crops: Crops | None = None) -> torch.Tensor:
    """Images, uint8 [B, 32, 32, 3], as float32 [B, 3, 32, 32] in channels_last memory, normalised a channel.

    With crops each image is padded by 4 pixels, black before the normalisation as is usual for CIFAR, cropped to
    32 x 32 and mirrored as they say.
    """
    if crops is not None:
        images = _crop(images, crops)
    # (pixel / 255 - mean) / std, as one product and one sum, along rows of 96 values that vectorise.
    std = np.tile(normalisation.std, SIDE)
    scale = (1 / (255 * std)).astype(np.float32)
    shift = (-np.tile(normalisation.mean, SIDE) / std).astype(np.float32)
    pixels = np.multiply(images.reshape(len(images), SIDE, 3 * SIDE), scale, dtype=np.float32)
    pixels += shift
    return torch.from_numpy(pixels).view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)


def _crop(images: np.ndarray, crops: Crops) -> np.ndarray:
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    # A view [B, 9, 9, 32, 32, 3] of every crop there is, of which one gather copies one an image.
    step = padded.strides
    every = np.lib.stride_tricks.as_strided(
        padded,
        (len(images), 2 * PADDING + 1, 2 * PADDING + 1, SIDE, SIDE, 3),
        (step[0], step[1], step[2], *step[1:]),
        writeable=False,
    )
    cropped: np.ndarray = every[np.arange(len(images)), *crops.corner]
    cropped[crops.mirrored] = cropped[crops.mirrored, :, ::-1]
    return cropped
