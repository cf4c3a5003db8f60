"""Starting a mixture."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fed_rebel.early.mixture import GaussianMixture

MEANS_STD = 0.05
"""Of the random means. Larger ones (1, 0.3) leave the mixture far behind, and so do k-means centroids of the codes of a
Head1 that has not met the mixture yet: where the means begin decides whether the codes can gather around them."""
START_SCALE = 0.3
"""L is this times I; at 0 the gradient of L^T L would vanish."""


def start_random(gmc: GaussianMixture, seed: int) -> None:
    """Start in place with means from N(0, 0.05^2), Sigma = (1 + 0.3^2) I and equal weights."""
    shape = gmc.means.shape
    gmc.place(
        means=_draw(seed, tuple(shape)),
        variances=torch.full(shape, 1 + START_SCALE**2),
        weights=torch.full(shape[:2], 1 / (shape[0] * shape[1]), dtype=torch.float64),
    )


@lru_cache(maxsize=8)
def _draw(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The means, drawn once for all the models that a process builds, as it does for each message to a client."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(b"early")))
    return torch.from_numpy(rng.normal(0, MEANS_STD, shape))
