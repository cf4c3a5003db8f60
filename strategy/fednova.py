"""FedNova (Wang et al. 2020, "Tackling the objective inconsistency"): clients that take more steps pull no harder."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fed_rebel.tensor_file import Tensors
from strategy.averaging import weight_shares, weighted_mean
from strategy.fedavg import AtClient, FedAvg
from strategy.messages import Reply


class FedNova(FedAvg):
    """Averages the clients' changes a step, and takes as many steps as they took in the mean (Eq. 10).

    How far the optimiser goes on a gradient that is always 1 is the length a of a client's round: |a_i|_1 of the paper
    for SGD with any momentum. Adam is not linear in its gradients, and there it is the number of steps.
    """

    def at_client(
        self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, beside: Tensors, kept: Tensors
    ) -> AtClient:
        """With the length of the round."""
        return _Measured(parameters, optimiser)

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """x + (sum_j p_j a_j) sum_i p_i (y_i - x) / a_i, with p the weights' shares."""
        shares = weight_shares(replies)
        lengths = torch.stack([reply.beside["length"] for reply in replies])
        pulls = shares * (shares @ lengths) / lengths
        moved = {}
        for name, before in current.items():
            changes = [reply.tensors[name].double() - before.double() for reply in replies]
            moved[name] = (before.double() + weighted_mean(changes, pulls)).to(before.dtype)
        return moved, memory


class _Measured(AtClient):
    """Lets an optimiser of the same kind go along on one number whose gradient is always 1."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
        super().__init__(parameters, optimiser)
        self.place = torch.zeros((), dtype=torch.float64, requires_grad=True)
        alike = optimiser.defaults | {"lr": 1.0, "weight_decay": 0.0}
        self.walker = type(optimiser)([self.place], **alike)

    def before_step(self) -> None:
        """One step of the walker."""
        self.place.grad = torch.ones_like(self.place)
        self.walker.step()

    def beside(self) -> Tensors:
        """The length of the round, float64, in steps of the learning rate; above 0."""
        return {"length": -self.place.detach()}
