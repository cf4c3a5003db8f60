"""The k-nearest-neighbours early classifier."""

import faiss
import torch
from torch import Tensor

from fed_rebel.early.classifier import Spec
from fed_rebel.early.fitted import FittedClassifier, one_thread

NEIGHBOURS = 100


class KNN(FittedClassifier):
    """The label that most of the min(100, N) nearest training codes bear; its confidence is their share (Sec. VI-B)."""

    fitted = ("codes", "labels")
    codes: Tensor
    labels: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.dimensions, self._classes = spec.code, spec.classes
        self.register_buffer("codes", torch.zeros(0, spec.code))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))

    def fit(self, z: Tensor, labels: Tensor) -> None:
        """Remember the codes and their labels."""
        self.codes, self.labels = z.detach().float().contiguous(), labels.to(z.device)

    def _class_scores(self, z: Tensor) -> Tensor:
        neighbours = min(NEIGHBOURS, len(self.codes))
        with one_thread():
            _, nearest = faiss.knn(z.cpu().numpy(), self.codes.cpu().numpy(), neighbours)
        their_labels = self.labels[torch.from_numpy(nearest).to(z.device)]
        votes = z.new_zeros(len(z), self._classes).scatter_add(
            1, their_labels, torch.ones_like(their_labels, dtype=z.dtype)
        )
        return (votes / neighbours).log()
