"""Symmetric Dirichlet draws in the log domain, where no concentration is too small."""

import numpy as np
from numpy.typing import NDArray


def log_dirichlet(alpha: float, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Logarithms of draws from Dir(alpha, ..., alpha) over the last axis; `shape` gives draws x categories.

    A gamma variate of shape 1e-4 is smaller than the smallest float64 more often than not, so its logarithm
    is drawn directly: G(a) = G(a + 1) U^(1/a) (Marsaglia & Tsang 2000, Sec. 6), and -log U is a standard
    exponential. Every value is finite and at most 0.
    """
    log_gamma: NDArray[np.float64] = (
        np.log(rng.standard_gamma(alpha + 1, shape)) - rng.standard_exponential(shape) / alpha
    )
    log_gamma -= log_gamma.max(axis=-1, keepdims=True)
    log_gamma -= np.log(np.exp(log_gamma).sum(axis=-1, keepdims=True))
    return log_gamma
