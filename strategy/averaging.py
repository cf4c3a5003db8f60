"""The weighted mean of replies, tensor by tensor, in the order of the clients."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fed_rebel.tensor_file import Tensors
from strategy.messages import Reply


def weight_shares(replies: Sequence[Reply]) -> Tensor:
    """Each reply's share of the weights, float64 [replies], summing to 1."""
    weights = torch.tensor([reply.weight for reply in replies], dtype=torch.float64)
    return weights / weights.sum()


def average(current: Tensors, replies: Sequence[Reply], names: Iterable[str]) -> Tensors:
    """The named tensors of the replies, averaged (McMahan et al. 2017, Alg. 1).

    In the warm start, whose replies bear label counts, each class of the early classifier is averaged by its images: a
    class that nobody holds keeps its start. Tensors of integers and empty ones stay as they are. Summed in float64,
    reply after reply, so that the result depends on nothing but the replies and their order.
    """
    shares = weight_shares(replies)
    by_class = torch.tensor([reply.label_counts for reply in replies], dtype=torch.float64)
    averaged = {}
    for name in names:
        tensors = [reply.tensors[name] for reply in replies]
        if not current[name].is_floating_point() or not current[name].numel():
            averaged[name] = current[name]
        elif name.startswith("early.") and by_class.numel():
            averaged[name] = _mean_by_class(current[name], tensors, by_class)
        else:
            averaged[name] = weighted_mean(tensors, shares).to(current[name].dtype)
    return averaged


def weighted_mean(tensors: Sequence[Tensor], shares: Tensor) -> Tensor:
    """The sum over i of shares[i] * tensors[i], in float64."""
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * tensor.double()
    return total


def _mean_by_class(start: Tensor, tensors: Sequence[Tensor], counts: Tensor) -> Tensor:
    """The mean over clients of tensors [C, ...], class c weighted by counts [clients, C]."""
    held = counts.sum(0)
    shares = counts / held.clamp(min=1)
    shape = (-1, *[1] * (start.ndim - 1))
    total = torch.zeros(start.shape, dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share.view(shape) * tensor.double()
    return torch.where(held.view(shape) > 0, total.to(start.dtype), start)
