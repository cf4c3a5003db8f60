"""Starting a mixture."""

import numpy as np
import torch

from fed_rebel.early.mixture import GaussianMixture

MEANS_STD = 0.05
"""Of the random means. Larger ones (1, 0.3) leave the mixture far behind, and so do k-means centroids of the codes of a
Head1 that has not met the mixture yet: where the means begin decides whether the codes can gather around them."""
START_SCALE = 0.3
"""L is this times I; at 0 the gradient of L^T L would vanish."""


def start_random(gmc: GaussianMixture, rng: np.random.Generator) -> None:
    """Start in place with means from N(0, 0.05^2), Sigma = (1 + 0.3^2) I and equal weights."""
    shape = gmc.means.shape
    gmc.place(
        means=torch.from_numpy(rng.normal(0, MEANS_STD, shape)),
        variances=torch.full(shape, 1 + START_SCALE**2),
        weights=torch.full(shape[:2], 1 / (shape[0] * shape[1]), dtype=torch.float64),
    )
