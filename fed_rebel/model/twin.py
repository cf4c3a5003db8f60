"""A model's twin."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def twin(module: M, values: Mapping[str, Tensor] | None = None, within: str = "") -> M:
    """A copy of a module with parameters and buffers of its own, as of `copy.deepcopy`, in a fifth of the time.

    Most of that goes into the empty dictionaries of hooks that every module has. Buffers that are not saved, which are
    fixed, are shared. `values` are taken in the place of the module's own, under the names of its state, which begin
    with `within`.
    """
    values = values or {}
    made = module.__new__(type(module))
    held = {name: value.copy() if isinstance(value, dict | set) else value for name, value in vars(module).items()}
    vars(made).update(held)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            made._parameters[name] = nn.Parameter(_copy(parameter, values.get(within + name)), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            made._buffers[name] = _copy(buffer, values.get(within + name))
    for name, child in module._modules.items():
        made._modules[name] = twin(child, values, f"{within}{name}.") if child is not None else None
    return made


def _copy(own: Tensor, value: Tensor | None) -> Tensor:
    """The value, else the module's own, where and how that lies in memory."""
    if value is None:
        return own.detach().clone()
    alike = torch.empty_like(own, requires_grad=False) if own.shape == value.shape else own.new_empty(value.shape)
    return alike.copy_(value)
