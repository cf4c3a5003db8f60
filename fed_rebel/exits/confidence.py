"""Whether a confidence tells the truth: its calibration error, and the temperature that mends it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

COLDEST, HOTTEST = 1e-3, 1e3
"""Where a temperature is looked for: with no wrong (or no right) label the best would be 0 (or infinite)."""


def calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, Eq. 3): |accuracy - confidence| in bins of equal width, weighted.

    confidence [N >= 1] in [0, 1]; right [N]: whether the label is. In [0, 1].
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def confidence_at(score: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """sigmoid(score / T) in [0, 1], of the score's shape: at T = 1 the confidence as the early classifier gives it."""
    return np.asarray(expit(np.asarray(score, np.float64) / temperature))


def fit_temperature(score: ArrayLike, right: ArrayLike) -> float:
    """The T > 0 with the smallest negative log-likelihood of "the label is right" under p = sigmoid(score / T).

    score [N >= 1] finite, right [N] bool, both of validation queries. The scaling of Guo et al. 2017, Sec. 4.2, for
    the two outcomes right and wrong. Looked for between 0.001 and 1000. Raises ValueError where there are no queries.
    """
    from scipy.optimize import minimize_scalar  # half a second to import

    signed = np.where(np.asarray(right, bool), -1.0, 1.0) * np.asarray(score, np.float64)
    if not signed.size:
        raise ValueError("score: no queries; a temperature is fitted on one or more")

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, signed / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
