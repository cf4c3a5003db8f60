"""FedMA (Wang et al. 2020, "Federated Learning with Matched Averaging") for the hidden channels of Head2."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fed_rebel.tensor_file import Tensors
from strategy.averaging import weight_shares, weighted_mean
from strategy.fedavg import FedAvg
from strategy.messages import Reply

HIDDEN = ((0, 1, 2), (2, 3, 4), (4, 5, 6))
"""Head2's convolutions whose channels have no fixed order, each with its GDN and the convolution after it. The order
of its inputs is that of z, and the last one's outputs have the order of Head's, which they imitate."""
MOST = 100
"""Times that a layer is matched at most. Each time lowers the sum of squares, so that a few are enough."""


class FedMA(FedAvg):
    """Clients' channels of Head2 are brought into one order, layer by layer, before they are averaged (Alg. 1).

    The paper's global model may grow, by channels that match none; here its width stays what it is, and a matching is
    an assignment problem. Nor are layers trained again between the matching of one and of the next: a round matches
    all of them. The rest of Head2, Tail and what else is shared are averaged as they are.
    """

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """The mean of the matched clients."""
        clients = [reply.tensors for reply in replies]
        if _named(HIDDEN[0][0], "weight") in current:
            for layer in HIDDEN:
                orders = match(channels(current, layer), [channels(c, layer) for c in clients], weight_shares(replies))
                clients = [permuted(c, layer, order) for c, order in zip(clients, orders, strict=True)]
        matched = [replace(reply, tensors=tensors) for reply, tensors in zip(replies, clients, strict=True)]
        return super().aggregate(current, matched, memory)


def match(start: Tensor, clients: Sequence[Tensor], shares: Tensor) -> list[NDArray[np.intp]]:
    """For each client the order that brings its channels beside those of all others.

    Each is assigned to an estimate so that the sum of squared distances is least (Eq. 2), and the estimate becomes the
    clients' weighted mean, until the assignments stay (Sec. 2.1). It begins with what the clients were sent, so that
    clients that moved little stay as they are.

    Args:
        start: the channels that were sent, float64 [channels, values].
        clients: each client's, the same.
        shares: the clients' weights, float64, summing to 1.
    """
    orders = [assignment(start, client) for client in clients]
    for _ in range(MOST):
        estimate = weighted_mean([client[order] for client, order in zip(clients, orders, strict=True)], shares)
        again = [assignment(estimate, client) for client in clients]
        if all(map(np.array_equal, again, orders)):
            break
        orders = again
    return orders


def assignment(estimate: Tensor, client: Tensor) -> NDArray[np.intp]:
    """The order of the client's channels, [channels], that has the least sum of squared distances to the estimate's."""
    from scipy.optimize import linear_sum_assignment  # half a second to import
    from scipy.spatial.distance import cdist

    _, order = linear_sum_assignment(cdist(estimate.numpy(), client.numpy(), "sqeuclidean"))
    return np.asarray(order)


def channels(tensors: Tensors, layer: tuple[int, int, int]) -> Tensor:
    """A layer's channels: what each weighs its inputs by, and its bias; float64 [channels, inputs x k x k + 1]."""
    convolution = layer[0]
    weight, bias = tensors[_named(convolution, "weight")], tensors[_named(convolution, "bias")]
    return torch.cat([weight.flatten(1), bias[:, None]], dim=1).double()


def permuted(tensors: Tensors, layer: tuple[int, int, int], order: NDArray[np.intp]) -> Tensors:
    """A Head2 that computes the same, the channels of a layer in another order: `order[i]` comes to place i."""
    convolution, gdn, after = layer
    weight, bias = _named(convolution, "weight"), _named(convolution, "bias")
    beta, gamma, inputs = _named(gdn, "root_beta"), _named(gdn, "root_gamma"), _named(after, "weight")
    return tensors | {
        weight: tensors[weight][order],
        bias: tensors[bias][order],
        beta: tensors[beta][order],
        gamma: tensors[gamma][order][:, order],
        inputs: tensors[inputs][:, order],
    }


def _named(place: int, parameter: str) -> str:
    return f"head2.layers.{place}.{parameter}"
