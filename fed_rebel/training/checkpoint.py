"""A training that can be stopped after any epoch: weights and optimisers' states in one safetensors file."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fed_rebel import tensor_file


def save(path: Path, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer], epochs_done: int) -> None:
    """Keep the state after an epoch, in place of the one before."""
    tensors = tensor_file.prefixed("model", model.state_dict()) | {"epochs_done": torch.tensor(epochs_done)}
    for number, optimiser in enumerate(optimisers):
        for name, parameter in model.named_parameters():
            state = optimiser.state.get(parameter, {})
            tensors |= {f"optimiser{number}.{name}.{key}": value for key, value in state.items() if value is not None}
    tensor_file.write(path, tensors)


def restore(path: Path, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> int:
    """Take up the kept state, if there is one, and give the epochs that are done.

    Raises `ValueError` for a damaged file.
    """
    if not path.exists():
        return 0
    tensors = tensor_file.read(path)
    model.load_state_dict(tensor_file.part("model", tensors))
    parameters = dict(model.named_parameters())
    for number, optimiser in enumerate(optimisers):
        for place, value in tensor_file.part(f"optimiser{number}", tensors).items():
            name, key = place.rsplit(".", 1)
            # Adam keeps its count of steps on the CPU.
            optimiser.state[parameters[name]][key] = value.to(parameters[name].device) if value.ndim else value
    return int(tensors["epochs_done"])
