"""Accuracy against coverage: what each threshold on the score would give."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """All the distinct ways to split N queries by a threshold on their scores, by rising coverage.

    The P arrays hold one point for coverage 0 and one for each distinct score; queries with equal scores are
    answered together, so the order of the rows does not matter. A query is answered locally where
    score >= threshold.
    """

    thresholds: Floats  # [P] falling; inf (nothing is answered locally), then every distinct score
    coverage: Floats  # [P] rising from 0 to 1: the fraction answered locally
    local_answered: Floats  # [P] in [0, 1]: local accuracy of the answered queries; NaN where none is answered
    remote_sent: Floats  # [P] in [0, 1]: remote accuracy of the sent queries; NaN where none is sent
    overall: Floats  # [P] in [0, 1]: accuracy of the whole

    def overall_at(self, coverage: ArrayLike) -> Floats:
        """Overall accuracy at fixed coverages in [0, 1], of the same shape.

        Between two points the curve is a straight line. Within a group of equal scores that is exact: it is
        the expected value when the group is answered in random order up to the wanted coverage.
        """
        return np.asarray(np.interp(_fraction(coverage), self.coverage, self.overall))

    def local_answered_at(self, coverage: ArrayLike) -> Floats:
        """Local accuracy of the answered queries at fixed coverages in [0, 1]; NaN at 0.

        Correct answers per query (coverage times accuracy), not the accuracy itself, are linear within a
        group of equal scores. They are interpolated, so this too is an expected value over random orders.
        """
        coverage = _fraction(coverage)
        correct = np.interp(coverage, self.coverage, self.coverage * np.nan_to_num(self.local_answered))
        return _ratio(correct, coverage)


def coverage_curve(score: ArrayLike, local_correct: ArrayLike, remote_correct: ArrayLike) -> Curve:
    """The coverage curve of N >= 1 queries (the axes of the paper's Fig. 8).

    score [N] finite, higher is surer; local_correct, remote_correct [N] bool: whether the early classifier's,
    and the server's, label of the query is right. Raises ValueError for other shapes, no queries and scores
    that are not finite.
    """
    score = np.asarray(score, np.float64)
    local, remote = np.asarray(local_correct, bool), np.asarray(remote_correct, bool)
    if score.ndim != 1 or not score.size or local.shape != score.shape or remote.shape != score.shape:
        shapes = f"{score.shape}, {local.shape} and {remote.shape}"
        raise ValueError(
            f"score, local_correct, remote_correct: shapes {shapes}; three of one shape [N >= 1] are wanted"
        )
    if not np.isfinite(score).all():
        raise ValueError(f"score: {score[~np.isfinite(score)][0]} is not allowed; every score must be finite")

    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.append(ranked[1:] != ranked[:-1], True)  # of its distinct score
    answered = np.append(0, np.flatnonzero(last) + 1)
    sent = score.size - answered
    local_right, remote_answered = _sums(local[order])[answered], _sums(remote[order])[answered]
    remote_right = remote_answered[-1] - remote_answered
    return Curve(
        thresholds=np.append(np.inf, ranked[last]),
        coverage=answered / score.size,
        local_answered=_ratio(local_right, answered),
        remote_sent=_ratio(remote_right, sent),
        overall=(local_right + remote_right) / score.size,
    )


def at_coverage(score: ArrayLike, local_correct: ArrayLike, remote_correct: ArrayLike, coverage: float) -> float:
    """Overall accuracy in [0, 1] at a fixed coverage in [0, 1], such as the paper's 0.46.

    Arguments as in `coverage_curve`. Ties are split at random in expectation, see `Curve.overall_at`.
    """
    return float(coverage_curve(score, local_correct, remote_correct).overall_at(coverage))


def _sums(right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of the first 0, 1, ..., N are right, [N + 1]."""
    sums = np.zeros(right.size + 1, np.int64)
    np.cumsum(right, out=sums[1:])
    return sums


def _ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """part / whole, NaN where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    ratio = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _fraction(coverage: ArrayLike) -> Floats:
    coverage = np.asarray(coverage, np.float64)
    if not ((coverage >= 0) & (coverage <= 1)).all():
        raise ValueError(f"coverage: {coverage} is not allowed; it must lie in [0, 1]")
    return coverage
