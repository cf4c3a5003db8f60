"""Floating-point operations of a query: two for a multiply-add, counted from the operators that really run."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

_aten = torch.ops.aten


def _each(operations: int) -> Callable[..., int]:
    def count(*_: Any, out_shape: Any, **__: Any) -> int:
        return operations * int(prod(out_shape))

    return count


def _over_input(shape: Any, *_: Any, **__: Any) -> int:
    return int(prod(shape))


def _batch_norm(shape: Any, *_: Any, **__: Any) -> int:
    return int(2 * prod(shape))  # in use it is one scale and one shift


# torch's counter knows convolutions and matrix products; these are the other operators of our modules.
_OTHERS: dict[Any, Callable[..., int]] = {
    operator: _each(1)
    for operator in (
        _aten.add,
        _aten.sub,
        _aten.sub_,
        _aten.mul,
        _aten.div,
        _aten.rsqrt,
        _aten.rsqrt_,
        _aten.sqrt,
        _aten.exp,
        _aten.log,
        _aten.pow,
        _aten.relu,
        _aten.relu_,
        _aten.clamp,
        _aten.clamp_min,
        _aten.rsub,
        _aten.add_,
        _aten.mul_,
    )
} | {
    _aten.sum: _over_input,
    _aten.mean: _over_input,
    _aten.max: _over_input,
    _aten.logsumexp: lambda shape, *_, **__: 3 * prod(shape),  # subtract the largest, exponential, add
    _aten._log_softmax: lambda shape, *_, **__: 4 * prod(shape),
    _aten.native_batch_norm: _batch_norm,
    _aten._native_batch_norm_legit_no_training: _batch_norm,
    _aten.max_pool2d_with_indices: _over_input,
}


def flops_per_query(function: Callable[[Tensor], object], queries: Tensor) -> float:
    """What one more query [1, ...] of `queries` [B, ...] costs, B an even number of 2 at least.

    The difference between the whole batch and its half: what depends on parameters alone, and is computed once however
    many queries there are, does not count.
    """
    half = len(queries) // 2
    _count(function, queries[:half])  # what a module keeps from its first call counts no more
    return (_count(function, queries) - _count(function, queries[:half])) / (len(queries) - half)


def _count(function: Callable[[Tensor], object], queries: Tensor) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=_OTHERS)
    with torch.no_grad(), counter:
        function(queries)
    return counter.get_total_flops()
