"""Batches of images as the networks take them: cropped, mirrored and normalised a batch at a time."""

import numpy as np
import torch

from fed_rebel.datasets.images import SIDE, Normalisation

PADDING = 4
"""Black pixels around an image from which a crop is taken."""


def batch(
    images: np.ndarray, normalisation: Normalisation, rng: np.random.Generator | None, flip: bool
) -> torch.Tensor:
    """Images, uint8 [B, 32, 32, 3], as float32 [B, 3, 32, 32] in channels_last memory, normalised a channel.

    With a generator each image is padded by 4 pixels, black before the normalisation as is usual for CIFAR,
    cropped to 32 x 32 at random and, if `flip`, mirrored with probability 1/2 (He et al. 2016, Sec. 4.2).
    The crops' corners and what is mirrored are drawn for the whole batch at once. Without a generator nothing
    is random.
    """
    if rng is not None:
        images = _crop(images, rng, flip)
    # (pixel / 255 - mean) / std, as one product and one sum, along rows of 96 values that vectorise.
    std = np.tile(normalisation.std, SIDE)
    scale = (1 / (255 * std)).astype(np.float32)
    shift = (-np.tile(normalisation.mean, SIDE) / std).astype(np.float32)
    pixels = np.multiply(images.reshape(len(images), SIDE, 3 * SIDE), scale, dtype=np.float32)
    pixels += shift
    return torch.from_numpy(pixels).view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2)


def _crop(images: np.ndarray, rng: np.random.Generator, flip: bool) -> np.ndarray:
    top, left = rng.integers(0, 2 * PADDING + 1, (2, len(images)))
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    # A view [B, 9, 9, 32, 32, 3] of every crop there is, of which one gather copies one an image.
    step = padded.strides
    crops = np.lib.stride_tricks.as_strided(
        padded,
        (len(images), 2 * PADDING + 1, 2 * PADDING + 1, SIDE, SIDE, 3),
        (step[0], step[1], step[2], *step[1:]),
        writeable=False,
    )
    cropped: np.ndarray = crops[np.arange(len(images)), top, left]
    if flip:
        mirrored = rng.random(len(images)) < 0.5
        cropped[mirrored] = cropped[mirrored, :, ::-1]
    return cropped
