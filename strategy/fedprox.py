"""FedProx (Li et al. 2020): a client is drawn back to what the server sent it."""

from collections.abc import Mapping

import torch
from torch import nn

from fed_rebel.tensor_file import Tensors
from strategy.fedavg import AtClient, FedAvg


class FedProx(FedAvg):
    """Adds `strategy.mu` / 2 times the squared distance from the server's parameters to the local loss (Eq. 2)."""

    def at_client(
        self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, beside: Tensors, kept: Tensors
    ) -> AtClient:
        """With the gradient of the proximal term."""
        return Proximal(parameters, optimiser, self.settings.strategy.mu)


class Proximal(AtClient):
    """Adds mu (w - w_0) to the gradient of each step: w_0 is where the parameters stand when this is made."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, mu: float) -> None:
        super().__init__(parameters, optimiser)
        self.mu = mu
        self.start = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def before_step(self) -> None:
        """g + mu (w - w_0)."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - self.start[name], alpha=self.mu)
