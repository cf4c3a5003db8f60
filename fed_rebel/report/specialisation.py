"""What each client knows: the classes that it answers alone, how well, and what it has in common with the others."""

import numpy as np
from numpy.typing import NDArray

from fed_rebel.report.queries import Queries

Floats = NDArray[np.float64]


def local_share(queries: Queries) -> Floats:
    """[clients, C] in [0, 1]: of a client's test queries of a class, how many it answers alone at its calibrated
    thresholds; NaN where it has none of the class."""
    everything = np.ones_like(queries.answered)
    return _ratio(queries.by_class(queries.answered), queries.by_class(everything))


def local_accuracy(queries: Queries) -> Floats:
    """[clients, C] in [0, 1]: of the test queries of a class that a client answers alone, how many it answers rightly;
    NaN where it answers none."""
    right = queries.answered & (queries.local == queries.label)
    return _ratio(queries.by_class(right), queries.by_class(queries.answered))


def overlap(queries: Queries) -> Floats:
    """[clients, clients] in [0, 1]: how far what two clients know is the same.

    What client i knows is the distribution p_i over the classes of the test queries that it answers alone, at its
    calibrated thresholds, and rightly. The overlap of i and j is sum_c min(p_i(c), p_j(c)): 1 where they answer the
    same classes in the same shares (every client with itself), 0 where no class is common. It is one minus the total
    variation distance. NaN for a client that gives no right answer alone.
    """
    right = queries.by_class(queries.answered & (queries.local == queries.label))
    known = _ratio(right, right.sum(axis=1, keepdims=True))
    return np.stack([np.minimum(own, known).sum(axis=1) for own in known])


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
