"""Starting the mixtures: from random means, or from codes by k-means in each class."""

import faiss
import numpy as np
import torch
from torch import Tensor

from fed_rebel.early.mixture import GaussianMixture

START_SCALE = 0.3
"""L of a random start is this times I; at 0 the gradient of L^T L would vanish."""


def start_random(gmc: GaussianMixture, std: float, rng: np.random.Generator) -> None:
    """Start in place with means from N(0, std^2), Sigma = (1 + 0.3^2) I and equal weights."""
    shape = gmc.means.shape
    _place(
        gmc,
        means=rng.normal(0, std, shape),
        variances=np.full(shape, 1 + START_SCALE**2),
        weights=np.full(shape[:2], 1 / (shape[0] * shape[1])),
    )


def start_from_codes(gmc: GaussianMixture, codes: Tensor, labels: Tensor, rng: np.random.Generator) -> None:
    """Start in place from codes float [N, code] and labels int64 [N] by k-means in each class.

    Means are the centroids, variances the class's variance within its clusters (never under what the mixture
    allows), weights the clusters' shares of their class, equal over classes. A class with fewer codes than
    components repeats them with a little noise; one with none starts near the mean of all codes. Raises
    ValueError where there are no codes.
    """
    if len(codes) == 0:
        raise ValueError("codes: there are none to start a mixture from, at least 1 is needed")
    with torch.no_grad():
        points = gmc.project(codes.to(gmc.means)).float().cpu().numpy()
    owners = labels.cpu().numpy()
    classes, components, dimensions = gmc.means.shape
    centre, spread = points.mean(0), points.var(0)

    means = centre + 0.1 * np.sqrt(spread) * rng.standard_normal(gmc.means.shape)
    variances = np.broadcast_to(spread, gmc.means.shape).copy()
    counts = np.ones((classes, components))
    for c in np.unique(owners):
        own = points[owners == c]
        if len(own) < components:
            noise = 0.1 * np.sqrt(spread) * rng.standard_normal((components, dimensions))
            means[c] = own[np.arange(components) % len(own)] + noise
        else:
            means[c], cluster = _kmeans(own, components, rng)
            # An empty cluster keeps a little weight: the logarithm of none could not be trained.
            counts[c] = np.maximum(np.bincount(cluster, minlength=components), 1)
            if len(own) > components:  # one degree of freedom goes with each centroid
                variances[c] = np.square(own - means[c, cluster]).sum(0) / (len(own) - components)
    _place(gmc, means, variances, weights=counts / (classes * counts.sum(1, keepdims=True)))


def _kmeans(points: np.ndarray, clusters: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centroids [clusters, d] of float32 points [n, d], and each point's cluster [n]."""
    kmeans = faiss.Kmeans(points.shape[1], clusters, nredo=5, seed=int(rng.integers(2**31)), min_points_per_centroid=1)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the same bits whatever the machine's cores
    try:
        kmeans.train(points)
        return np.asarray(kmeans.centroids), kmeans.assign(points)[1]
    finally:
        faiss.omp_set_num_threads(threads)


def _place(gmc: GaussianMixture, means: np.ndarray, variances: np.ndarray, weights: np.ndarray) -> None:
    gmc.place(torch.from_numpy(means), torch.from_numpy(variances), torch.from_numpy(weights))
