"""Operations, parameters and memory of every part of ReBEL (Table I)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from fed_rebel.cost.flops import flops_per_query
from fed_rebel.early import EarlyClassifier, build
from fed_rebel.model.heads import CODE_SHAPE, CODE_SIZE, Head1, Head2
from fed_rebel.model.resnet import build_base_model

_QUERIES = 4
_FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class PartCost:
    """What one part costs."""

    part: str
    flops: float
    """A query; two for a multiply-add."""
    parameters: int
    """Numbers that are trained; 0 for what is fitted."""
    memory: int
    """Bytes of all that it must hold to answer, in float32."""


def costs(backbone: str, classes: int, *, components: int, projection: int, stored: int) -> list[PartCost]:
    """The base model, Head1, Head2 and Tail together, and each early classifier.

    `stored` are the training codes that k-NN searches. Takes seconds: the modules really run, on a few made-up queries.
    """
    base = build_base_model(backbone, classes, seed=0).eval()
    server = nn.Sequential(Head2(base.head.channels), base.tail).eval()
    images, codes = torch.zeros(_QUERIES, 3, 32, 32), torch.zeros(_QUERIES, *CODE_SHAPE)
    parts = [
        _of_module("base model", base, images),
        _of_module("Head1", Head1(), images),
        _of_module("Head2 + Tail", server, codes),
    ]
    for kind in ("gmc", "gmc-diag", "linear"):
        parts.append(
            _of_classifier(kind, build(kind, classes=classes, seed=0, components=components, projection=projection))
        )
    clusters = components * classes
    # FAISS is no torch operator: a query's product with every row, two operations a number of it.
    parts.append(PartCost("kmeans", 2 * clusters * CODE_SIZE, 0, _FLOAT * clusters * (CODE_SIZE + classes)))
    parts.append(PartCost("knn", 2 * stored * CODE_SIZE, 0, stored * (_FLOAT * CODE_SIZE + 8)))
    return parts


def _of_module(part: str, module: nn.Module, queries: torch.Tensor) -> PartCost:
    return PartCost(part, flops_per_query(module, queries), _numbers(module.parameters()), _bytes(module))


def _of_classifier(kind: str, early: EarlyClassifier) -> PartCost:
    flops = flops_per_query(early.class_scores, torch.zeros(_QUERIES, CODE_SIZE))
    return PartCost(kind, flops, _numbers(early.parameters()), _bytes(early))


def _numbers(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(module: nn.Module) -> int:
    return _FLOAT * (_numbers(module.parameters()) + _numbers(module.buffers()))
