"""A client's private state, on its own disk and nowhere else: Head1, the code's range, the early classifier, and where
settings want it BatchNorm's statistics and what its optimisers remember."""

from pathlib import Path

import torch

from fed_rebel import tensor_file
from fed_rebel.runs import private_file


def load(run: Path, number: int, client: int) -> tensor_file.Tensors:
    """The state that a client has in a round: accepted in that round, else the one before it, where all states are.

    Raises `ValueError` naming the file that is not there or is damaged.
    """
    written = private_file(run, number, client)
    tensors = tensor_file.read(written if written.exists() else private_file(run, number - 1, client))
    _check_finite(tensors, client)
    return tensors


def save(outbox: Path, client: int, tensors: tensor_file.Tensors) -> None:
    """Write the state that a client has after a round; it counts once the server has the client's good reply.

    Raises `ValueError`, and writes nothing, where a number is not finite.
    """
    _check_finite(tensors, client)
    tensor_file.write(outbox / f"{client}.safetensors", tensors)


def _check_finite(tensors: tensor_file.Tensors, client: int) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(f"private tensor {name} of client {client}: not finite")
