"""Early classifiers that are not trained but fitted to a client's training codes."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
from torch import Tensor

from fed_rebel.early.untrained import UntrainedClassifier


@contextmanager
def one_thread() -> Iterator[None]:
    """FAISS on one thread: with more, sums add up in another order in each run, and clients at once share the cores."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class FittedClassifier(UntrainedClassifier):
    """Reads its answers off codes and labels that it was shown.

    Its class scores are log shares, -inf for a class that has none.
    """

    @abstractmethod
    def fit(self, z: Tensor, labels: Tensor) -> None:
        """Take codes [N, code] and their labels, int64 [N], in place of what was fitted before; N at least 1."""
