"""How unequal the label counts of a shard are."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def label_histogram(labels: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Images of each class, (classes,), of `labels` (n,) in [0, classes); absent classes count 0.

    Raises ValueError for a label that is not a whole number in that range.
    """
    labels = np.asarray(labels)
    whole = labels.size == 0 or np.issubdtype(labels.dtype, np.integer)
    if not whole or (labels.size and not 0 <= labels.min() <= labels.max() < classes):
        shown = f"{labels.min()} to {labels.max()}" if whole else str(labels.dtype)
        raise ValueError(f"labels = {shown}: must be whole numbers from 0 to {classes - 1}")
    return np.bincount(labels.astype(np.int64), minlength=classes)


def gini(counts: ArrayLike) -> float:
    """Gini index of the label counts (C,) of all C classes, absent ones included: in [0, 1 - 1/C].

    Half the mean absolute difference between two classes relative to the mean: 0 when all classes are equally
    frequent, 1 - 1/C when one class has every image. Computed from the sorted counts x_1 <= ... <= x_C as
    sum_i (2i - C - 1) x_i / (C sum_i x_i). Raises ValueError when there are no images.
    """
    ordered = np.sort(_non_empty(counts))
    n = len(ordered)
    return max(0.0, float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum())))


def effective_classes(counts: ArrayLike) -> float:
    """Effective number of classes of the label counts (C,): exp of the shares' entropy, in [1, C].

    Raises ValueError when there are no images.
    """
    counts = _non_empty(counts)
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def smoothed_shares(counts: ArrayLike, smoothing: float = 0.1) -> NDArray[np.float64]:
    """Label shares (C,) of the label counts (C,), never 0: (n_c + s) / (N + s C) with s = `smoothing` > 0.

    The smoothing keeps the logarithm of an absent class finite, where shares serve as a prior.
    """
    counts = np.asarray(counts, dtype=np.float64)
    shares: NDArray[np.float64] = (counts + smoothing) / (counts.sum() + smoothing * len(counts))
    return shares


def _non_empty(counts: ArrayLike) -> NDArray[np.float64]:
    counts = np.asarray(counts, dtype=np.float64)
    if not counts.sum() > 0:
        raise ValueError(f"label counts sum to {counts.sum():g}: must be more than 0")
    return counts
