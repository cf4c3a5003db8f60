"""The threshold that meets a target, found on validation data, and the routing it gives."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fed_rebel.exits.curve import Curve, coverage_curve
from fed_rebel.exits.target import Target

FEWEST_OF_A_CLASS = 20
"""Validation queries below which a label has no threshold of its own."""


def calibrate(score: ArrayLike, local_correct: ArrayLike, remote_correct: ArrayLike, target: Target) -> float:
    """The threshold on the score that meets `target` on a client's (or all clients' pooled) validation data.

    Arguments and ValueErrors as in `coverage_curve`. The point of the curve that is chosen has, for

    - never: coverage 0;
    - best: the highest overall accuracy, of several the one with the largest coverage;
    - coverage: the smallest coverage that reaches the wanted one;
    - accuracy: the largest coverage at which the answered queries reach the wanted local accuracy, else 0;
    - delay: as for best, of the points whose coverage is at least `target.least`.

    On validation every threshold between the lowest answered score and the next one below routes alike. Their
    midpoint is returned. On new queries either end would be biased: of n queries the k surest leave, on
    average, k / (n + 1) of all queries above the k-th score and (k + 1) / (n + 1) above the next. So the
    threshold is -inf where all are answered, and inf where none is.
    """
    curve = coverage_curve(score, local_correct, remote_correct)
    return threshold_after(curve.thresholds[1:], _chosen_point(curve, target))


def threshold_after(scores: NDArray[np.float64], answered: int) -> float:
    """The threshold that answers the first so many of distinct scores, falling: midway to the next score.

    inf where none is answered, -inf where all are.
    """
    if answered == 0:
        return float("inf")
    if answered == len(scores):
        return float("-inf")
    last, sent = scores[answered - 1], scores[answered]
    middle = 0.5 * last + 0.5 * sent
    return float(middle if middle > sent else last)  # neighbouring floats have no middle


def calibrate_by_class(
    label: NDArray[np.integer],
    score: NDArray[np.floating],
    local_correct: NDArray[np.bool_],
    remote_correct: NDArray[np.bool_],
    target: Target,
) -> dict[int, float]:
    """`calibrate` for each local label [N] that at least 20 queries bear; the others have no threshold of their own."""
    labels, counts = np.unique(label, return_counts=True)
    own = {int(c): label == c for c in labels[counts >= FEWEST_OF_A_CLASS]}
    return {c: calibrate(score[rows], local_correct[rows], remote_correct[rows], target) for c, rows in own.items()}


def route(score: ArrayLike, threshold: ArrayLike) -> NDArray[np.bool_]:
    """[N] bool: the queries of score [N] that are answered locally: score >= threshold, which is one or [N]."""
    # In float64: in float32 a midpoint between two neighbouring scores would be rounded onto one of them.
    return np.asarray(score, np.float64) >= np.asarray(threshold, np.float64)


def _chosen_point(curve: Curve, target: Target) -> int:
    if target.kind == "never":
        return 0
    if target.kind in ("best", "delay"):
        overall = np.where(curve.coverage >= target.least, curve.overall, -1)
        return int(np.flatnonzero(overall == overall.max())[-1])
    assert target.value is not None  # Target sees to it
    if target.kind == "coverage":
        return int(np.flatnonzero(curve.coverage >= target.value)[0])
    reached = np.flatnonzero(curve.local_answered >= target.value)  # NaN, where none is answered, reaches nothing
    return int(reached[-1]) if reached.size else 0
