"""A training that can be stopped and gone on with: weights and optimisers' states as tensors."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fed_rebel import tensor_file
from fed_rebel.tensor_file import Tensors


def save(path: Path, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], epochs_done: int) -> None:
    """Keep the state after an epoch, in place of the one before. The optimisers are of different kinds."""
    tensors = tensor_file.prefixed("model", model.state_dict()) | {"epochs_done": torch.tensor(epochs_done)}
    for optimiser in optimisers:
        tensors |= optimiser_state(model, optimiser)
    tensor_file.write(path, tensors)


def restore(path: Path, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> int:
    """Take up the kept state, if there is one, and give the epochs that are done.

    Raises `ValueError` for a damaged file.
    """
    if not path.exists():
        return 0
    tensors = tensor_file.read(path)
    model.load_state_dict(tensor_file.part("model", tensors))
    for optimiser in optimisers:
        take_up(model, optimiser, tensors)
    return int(tensors["epochs_done"])


def optimiser_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> Tensors:
    """What an optimiser remembers, under `adam.<parameter>.<what>` or the like."""
    return {
        f"{_kind(optimiser)}.{name}.{what}": value
        for name, parameter in model.named_parameters()
        for what, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    }


def take_up(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Let an optimiser go on from what `optimiser_state` of its kind gave; other tensors are left alone."""
    parameters = dict(model.named_parameters())
    for place, value in tensor_file.part(_kind(optimiser), tensors).items():
        name, what = place.rsplit(".", 1)
        # Of a parameter's shape it lies in memory as the parameter does: a fused step goes through both side by side.
        like = parameters[name] if value.shape == parameters[name].shape else value
        kept = torch.empty_like(like, dtype=value.dtype, device=parameters[name].device)
        optimiser.state[parameters[name]][what] = kept.copy_(value)


def _kind(optimiser: torch.optim.Optimizer) -> str:
    return type(optimiser).__name__.lower()
