"""The weighted mean of replies, tensor by tensor, in the order of the clients."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fed_rebel.tensor_file import Tensors
from strategy.messages import Reply


def weight_shares(replies: Sequence[Reply]) -> Tensor:
    """Each reply's share of the weights, float64 [replies], summing to 1."""
    weights = torch.tensor([reply.weight for reply in replies], dtype=torch.float64)
    return weights / weights.sum()


class Mean:
    """The weighted mean of replies that come one after another, none of which is kept (McMahan et al. 2017, Alg. 1).

    In the warm start, whose replies bear label counts, each class of the early classifier is averaged by its images: a
    class that nobody holds keeps its start. Tensors of integers and empty ones stay as they are. Summed in float64,
    reply after reply, so that the result depends on nothing but the replies and their order.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._counts = torch.zeros(0, dtype=torch.float64)
        self._sums: Tensors = {}

    def add(self, reply: Reply) -> None:
        """The next one, with the same tensors as those before."""
        counts = torch.tensor(reply.label_counts, dtype=torch.float64)
        self._counts = self._counts + counts if self._counts.numel() else counts
        self._weight += reply.weight
        for name, tensor in reply.tensors.items():
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            if name not in self._sums:
                self._sums[name] = torch.zeros(tensor.shape, dtype=torch.float64)
            if self._by_class(name):
                self._sums[name] += _a_class(counts, tensor) * tensor
            else:
                self._sums[name].add_(tensor, alpha=reply.weight)

    def of(self, current: Tensors) -> Tensors:
        """The averaged tensors, in the place of those of `current` that they were trained from."""
        averaged = {}
        for name, total in self._sums.items():
            start = current[name]
            if self._by_class(name):
                held = _a_class(self._counts, start)
                averaged[name] = torch.where(held > 0, (total / held.clamp(min=1)).to(start.dtype), start)
            else:
                averaged[name] = (total / self._weight).to(start.dtype)
        return current | averaged

    def _by_class(self, name: str) -> bool:
        return name.startswith("early.") and self._counts.numel() > 0


def average(current: Tensors, replies: Sequence[Reply], names: Iterable[str]) -> Tensors:
    """The named tensors, averaged over replies that are all there."""
    mean, current = Mean(), {name: current[name] for name in names}
    for reply in replies:
        mean.add(replace(reply, tensors={name: reply.tensors[name] for name in current}))
    return mean.of(current)


def weighted_mean(tensors: Sequence[Tensor], shares: Tensor) -> Tensor:
    """The sum over i of shares[i] * tensors[i], in float64."""
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * tensor.double()
    return total


def _a_class(counts: Tensor, tensor: Tensor) -> Tensor:
    """Counts [C], to go with a tensor [C, ...]."""
    return counts.view(-1, *[1] * (tensor.ndim - 1))
