"""Federated averaging (McMahan et al. 2017), and what every other strategy is: federated averaging with a difference.

A strategy has two sides: `FedAvg` on the server, between the replies and the next round's tensors, and `AtClient` on a
client, between an order and its reply. Both are made anew in every round. What they remember is in the tensors they
are given and give back, which the run directory and the client's disk keep: so a run that is killed loses nothing. They
are kept for the rounds of one stage, and begin empty in the next, which trains other parts on another loss.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fed_rebel.settings import Settings
from fed_rebel.tensor_file import Tensors
from strategy.averaging import average
from strategy.messages import Reply


class AtClient:
    """A strategy's side at a client, for the local steps of one round. Of federated averaging: nothing.

    Args:
        parameters: the trained parameters that are shared, as they came from the server; their names are those of the
            replies' tensors.
        optimiser: what trains them.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
        self.parameters = dict(parameters)
        optimiser.register_step_pre_hook(lambda *_: self.before_step())

    def before_step(self) -> None:
        """The gradients of a step are there, and the optimiser has not taken it yet: the place to change them."""

    def beside(self) -> Tensors:
        """After the last step: what is sent to the server beside the trained tensors."""
        return {}

    def kept(self) -> Tensors:
        """After the last step: what the client keeps for its next round of the stage."""
        return {}


class FedAvg:
    """A strategy's side on the server, for one round.

    Args:
        settings: the whole run's.
        round: its number, from 0.
    """

    def __init__(self, settings: Settings, round: int) -> None:
        self.settings = settings
        self.round = round

    def beside(self, memory: Tensors) -> Tensors:
        """What is sent to the clients beside the shared tensors, of what the server remembers."""
        return {}

    def at_client(
        self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, beside: Tensors, kept: Tensors
    ) -> AtClient:
        """This strategy at a client, with what the server sent beside, which is not to be written to, and what the
        client kept of the round before."""
        return AtClient(parameters, optimiser)

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """The shared parameters after the round, and what the server remembers of it.

        Args:
            current: the parameters as they were sent.
            replies: one at least, in the order of the clients; their tensors are those of `current`, trained.
            memory: what the last round of this stage gave; empty in its first.
        """
        return average(current, replies, current), memory

    def numbers(self) -> dict[str, float]:
        """What `rounds.jsonl` tells of a round that was aggregated, in its row without a client."""
        return {}
