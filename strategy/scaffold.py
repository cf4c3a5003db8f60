"""SCAFFOLD (Karimireddy et al. 2020): control variates take the drift of a client out of its steps."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fed_rebel.tensor_file import Tensors
from strategy.averaging import weight_shares, weighted_mean
from strategy.fedavg import AtClient, FedAvg
from strategy.messages import Reply


class Scaffold(FedAvg):
    """Each step's gradient g becomes g - c_i + c (Alg. 1), where c_i is the client's mean gradient of its last round,
    on its own disk, and c that of all clients.

    The mean of a round's gradients is the paper's second option, c_i - c + (x - y_i) / (K eta), where the optimiser is
    plain SGD. With momentum, weight decay and Adam, which act on the corrected gradients, it is what is meant by it.
    """

    def beside(self, memory: Tensors) -> Tensors:
        """c."""
        return memory

    def at_client(
        self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, beside: Tensors, kept: Tensors
    ) -> AtClient:
        """With the correction."""
        return _Controlled(parameters, optimiser, everybody=beside, own=kept)

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """The mean of the parameters, and c + |S| / N times the mean change of the control variates."""
        moved, _ = super().aggregate(current, replies, memory)
        shares = weight_shares(replies) * len(replies) / self.settings.partition.members
        changes = {name: weighted_mean([reply.beside[name] for reply in replies], shares) for name in current}
        return moved, {
            name: (memory[name] + change if name in memory else change).float() for name, change in changes.items()
        }


class _Controlled(AtClient):
    """The correction of each step, and the mean gradient of the round. A control variate that is not there is 0."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimiser: torch.optim.Optimizer,
        everybody: Tensors,
        own: Tensors,
    ) -> None:
        super().__init__(parameters, optimiser)
        self.total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        self.own = {
            name: own[name].to(zero.device) if name in own else zero.clone() for name, zero in self.total.items()
        }
        self.drift = {
            name: everybody[name].to(mine.device) - mine if name in everybody else -mine
            for name, mine in self.own.items()
        }
        self.steps = 0

    def before_step(self) -> None:
        """g - c_i + c."""
        self.steps += 1
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                self.total[name] += parameter.grad
                parameter.grad.add_(self.drift[name])

    def beside(self) -> Tensors:
        """How the client's control variate changed."""
        return {name: new - self.own[name] for name, new in self.kept().items()}

    def kept(self) -> Tensors:
        """Its new control variate: the mean of the round's gradients."""
        return {name: total / self.steps for name, total in self.total.items()}
