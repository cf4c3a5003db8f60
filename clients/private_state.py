"""A client's private state: Head1, the code's range and the early classifier, on its own disk and nowhere else."""

from pathlib import Path

from fed_rebel import tensor_file
from fed_rebel.runs import private_file


def load(run: Path, number: int, client: int) -> tensor_file.Tensors:
    """The state that a client has in a round: written in that round, else the one before it, where all states are.

    Raises `ValueError` naming the file that is not there or is damaged.
    """
    written = private_file(run, number, client)
    return tensor_file.read(written if written.exists() else private_file(run, number - 1, client))


def save(run: Path, number: int, client: int, tensors: tensor_file.Tensors) -> None:
    """Write the state of a round; it becomes current when the server finishes the round."""
    tensor_file.write(private_file(run, number, client), tensors)
