"""What the server does differently from method to method; `server.py` does the rest."""

from typing import Protocol

from fed_rebel.tensor_file import Tensors
from strategy.messages import Stage


class Method(Protocol):
    """Which tensors the server has, and which of them it gives to whom."""

    @property
    def early_seed(self) -> int:
        """The seed of the early classifier's projection."""

    def start(self) -> Tensors:
        """The server's tensors before the first round."""

    def private_start(self, state: Tensors) -> None:
        """The private start begins, with these tensors."""

    def sent(self, stage: Stage, state: Tensors) -> Tensors:
        """What a client is sent to train a stage."""

    def shared(self, state: Tensors) -> Tensors:
        """What stays with the server from the private start on, and is sent to be evaluated."""

    def balanced_accuracy(self, state: Tensors) -> float | None:
        """Of what is shared on the whole, balanced test set; None where that is no model."""
