"""Early classifiers that are not trained but fitted to a client's training codes."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import torch
from torch import Tensor

from fed_rebel.early.classifier import EarlyClassifier


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS on one thread: with more, sums add up in another order in each run, and clients at once share the cores."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class FittedClassifier(EarlyClassifier):
    """Reads its answers off codes and labels that it was shown; it has no parameters, so no losses either.

    Its class scores are log shares, -inf for a class that has none.
    """

    @abstractmethod
    def fit(self, z: Tensor, labels: Tensor) -> None:
        """Take codes [N, code] and their labels, int64 [N], in place of what was fitted before; N at least 1."""

    def loss(self, z: Tensor, labels: Tensor, present: Tensor | None = None) -> Tensor:
        """Nothing to learn: 0."""
        return z.new_zeros(())

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32

    def _kl(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> Tensor:
        return mu.new_zeros(len(labels))

    def _add_to_log_joint(self, log_shares: Tensor) -> None:
        """The client's label shares are in what it was fitted to."""
