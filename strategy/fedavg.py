"""Federated averaging (McMahan et al. 2017, Alg. 1) of the parts that a stage shares."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fed_rebel.settings import StrategySettings
from fed_rebel.tensor_file import Tensors
from strategy.messages import Reply


def average(current: Tensors, replies: Sequence[Reply], settings: StrategySettings) -> Tensors:
    """The server's tensors after a round: the weighted mean of the replies, in the order of the clients.

    What no client sent stays as it is. In the warm start, whose replies bear label counts, each class of the early
    classifier is averaged by its images: a class that nobody holds keeps its start. Summed in float64, client after
    client, so that the result depends on nothing but the replies. Raises `ValueError` without replies.
    """
    if not replies:
        raise ValueError("no replies: there is nothing to average")
    replies = sorted(replies, key=lambda reply: reply.client)
    weights = torch.tensor([_weight(reply.samples, settings.weights) for reply in replies], dtype=torch.float64)
    by_class = torch.tensor([reply.label_counts for reply in replies], dtype=torch.float64)
    averaged = dict(current)
    for name in replies[0].tensors:
        tensors = [reply.tensors[name] for reply in replies]
        if not current[name].is_floating_point() or not current[name].numel():
            continue
        if name.startswith("early.") and by_class.numel():
            averaged[name] = _mean_by_class(current[name], tensors, by_class)
        else:
            averaged[name] = _mean(tensors, weights / weights.sum()).to(current[name].dtype)
    return averaged


def _weight(samples: int, kind: str) -> float:
    return {"samples": samples, "uniform": 1.0, "sqrt": math.sqrt(samples)}[kind]


def _mean(tensors: Sequence[Tensor], shares: Tensor) -> Tensor:
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
