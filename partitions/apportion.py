"""Whole numbers in proportion to weights."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def largest_remainder(weights: ArrayLike, total: ArrayLike) -> NDArray[np.int64]:
    """Split `total` in proportion to `weights` over the last axis, by the largest remainder (Hamilton).

    `weights` (..., n) are non-negative with a positive sum, `total` (...) whole numbers >= 0. The result
    (..., n) sums to `total` exactly; every part is its quota rounded down or up, ties go to the lower index.
    """
    weights = np.asarray(weights, dtype=np.float64)
    total = np.asarray(total, dtype=np.int64)[..., np.newaxis]
    quota = weights * total / weights.sum(axis=-1, keepdims=True)
    parts: NDArray[np.int64] = np.floor(quota).astype(np.int64)
    missing = total - parts.sum(axis=-1, keepdims=True)
    by_remainder = np.argsort(parts - quota, axis=-1, kind="stable")
    rank = np.argsort(by_remainder, axis=-1)
    parts += rank < missing
    return parts
