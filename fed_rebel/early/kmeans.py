"""The k-means early classifier."""

import faiss
import torch
from torch import Tensor

from fed_rebel.early.classifier import Spec
from fed_rebel.early.fitted import FittedClassifier, one_thread

ITERATIONS = 25


class KMeans(FittedClassifier):
    """The predominant label of the nearest cluster of training codes; its confidence is its share there (Sec. VI-B).

    min(K a class present, N) clusters.
    """

    fitted = ("centroids", "counts")
    centroids: Tensor
    counts: Tensor
    """[clusters, C] training codes of each class in each cluster."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.dimensions, self._spec = spec.code, spec
        self.register_buffer("centroids", torch.zeros(0, spec.code))
        self.register_buffer("counts", torch.zeros(0, spec.classes))

    def fit(self, z: Tensor, labels: Tensor) -> None:
        """Cluster the codes, and count the labels in each cluster."""
        codes = z.detach().float().cpu().numpy()
        clusters = min(self._spec.components * len(labels.unique()), len(codes))
        means = faiss.Kmeans(
            self._spec.code,
            clusters,
            niter=ITERATIONS,
            seed=self._spec.seed % 2**31,
            min_points_per_centroid=1,
            max_points_per_centroid=len(codes),
        )
        with one_thread():
            means.train(codes)
            centroids = means.centroids
            assert centroids is not None  # they are there once trained
            _, nearest = faiss.knn(codes, centroids, 1)
        counts = torch.zeros(clusters, self._spec.classes)
        counts.index_put_((torch.from_numpy(nearest[:, 0]), labels.cpu()), torch.ones(len(codes)), accumulate=True)
        held = counts.sum(1) > 0
        self.centroids, self.counts = torch.from_numpy(centroids)[held].to(z.device), counts[held].to(z.device)

    def _class_scores(self, z: Tensor) -> Tensor:
        with one_thread():
            _, nearest = faiss.knn(z.cpu().numpy(), self.centroids.cpu().numpy(), 1)
        counts = self.counts[torch.from_numpy(nearest[:, 0]).to(z.device)]
        return (counts / counts.sum(1, keepdim=True)).log()
