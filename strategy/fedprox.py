"""FedProx (Li et al. 2020): a client is drawn back to what the server sent it."""

from collections.abc import Mapping

import torch
from torch import nn

from fed_rebel.tensor_file import Tensors
from fed_rebel.training.drift import pull
from strategy.fedavg import AtClient, FedAvg


class FedProx(FedAvg):
    """Adds `strategy.mu` / 2 times the squared distance from the server's parameters to the local loss (Eq. 2)."""

    def at_client(
        self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, beside: Tensors, kept: Tensors
    ) -> AtClient:
        """With the gradient of the proximal term."""
        sent = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        pull(optimiser, parameters, sent, self.settings.strategy.mu)
        return AtClient(parameters, optimiser)
