"""Stacking (Wolpert 1992): the server's answer corrected by what the device knows, weighed on validation images.

A client knows its label shares, and has its own early classifier's opinion of the query that it sends. The label of a
sent query is then the class that maximises

    w_remote log p_remote(c | z) + w_local log p_local(c | z) + w_prior log share_c

1 / w_remote is the server's temperature. The weights are the client's own, three numbers, by the least cross-entropy
on its validation images; `UNFITTED`, which is Bayes' rule for a calibrated server that was trained on balanced data, is
where they start and what they are held to where there are few images.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

Floats = NDArray[np.float64]

FLOOR = np.log(1e-6)
"""Log-probabilities below it say no more: k-NN's are -inf for a class that is not among the neighbours."""
RIDGE = 0.01
"""Weight of the squared distance to `UNFITTED`, in nats; with one class alone the cross-entropy has no minimum."""
UNFITTED = (1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Stack:
    """The weights of the server's, the device's and the prior's log-probabilities."""

    remote: float = UNFITTED[0]
    local: float = UNFITTED[1]
    prior: float = UNFITTED[2]

    @classmethod
    def fit(cls, remote: ArrayLike, local: ArrayLike, log_shares: ArrayLike, labels: NDArray[np.integer]) -> Self:
        """The weights, none negative, for N validation images: remote, local [N, C] scores up to a constant a row,
        log_shares [C], labels [N]. The cross-entropy is convex in them. ValueError without images."""
        from scipy.optimize import minimize  # half a second to import

        if not len(labels):
            raise ValueError("labels: no validation images to fit a stack on; at least 1")
        evidence = _evidence(remote, local, log_shares)
        of_label = evidence[:, np.arange(len(labels)), labels]
        start = np.array(UNFITTED)

        def cross_entropy(weights: Floats) -> tuple[float, Floats]:
            logs = log_softmax(np.tensordot(weights, evidence, 1), axis=1)
            expected = (np.exp(logs) * evidence).sum(2)
            loss = -logs[np.arange(len(labels)), labels].mean() + RIDGE * np.square(weights - start).sum()
            return float(loss), (expected - of_label).mean(1) + 2 * RIDGE * (weights - start)

        found = minimize(cross_entropy, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * 3)
        return cls(*found.x.tolist())

    def labels(self, remote: ArrayLike, local: ArrayLike, log_shares: ArrayLike) -> NDArray[np.int64]:
        """[N]: the label of each query; arguments as in `fit`."""
        return np.asarray(self.scores(remote, local, log_shares).argmax(1), np.int64)

    def scores(self, remote: ArrayLike, local: ArrayLike, log_shares: ArrayLike) -> Floats:
        """[N, C]: the classes' weighed log-probabilities, up to a constant a row; arguments as in `fit`."""
        weights = np.array([self.remote, self.local, self.prior])
        return np.asarray(np.tensordot(weights, _evidence(remote, local, log_shares), 1), np.float64)


def _evidence(remote: ArrayLike, local: ArrayLike, log_shares: ArrayLike) -> Floats:
    """[3, N, C]"""
    logs = [np.maximum(log_softmax(np.asarray(scores, np.float64), axis=1), FLOOR) for scores in (remote, local)]
    return np.stack([*logs, np.broadcast_to(np.asarray(log_shares, np.float64), logs[0].shape)])
