"""FedDyn (Acar et al. 2021): a linear term for each client makes local and global optima agree."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fed_rebel.tensor_file import Tensors
from fed_rebel.training.drift import pull
from strategy.averaging import weight_shares, weighted_mean
from strategy.fedavg import AtClient, FedAvg
from strategy.messages import Reply


class FedDyn(FedAvg):
    """A client's loss gets - <g_i, w> + `strategy.mu` / 2 |w - w_0|^2, and the server corrects the mean by h (Alg. 1).

    It changes the local loss, and so goes with any optimiser. The paper's mean is uniform; here it has the weights of
    `strategy.weights`.
    """

    def at_client(
        self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, beside: Tensors, kept: Tensors
    ) -> AtClient:
        """With the gradient of both terms."""
        return _Dynamic(parameters, optimiser, self.settings.strategy.mu, kept)

    def aggregate(self, current: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
        """h - mu |S| / N mean(w_i - w_0), and mean(w_i) - h / mu."""
        mu = self.settings.strategy.mu
        shares = weight_shares(replies)
        part = len(replies) / self.settings.partition.members
        moved, h = {}, {}
        for name, before in current.items():
            change = weighted_mean([reply.tensors[name].double() - before.double() for reply in replies], shares)
            kept = memory[name].double() if name in memory else torch.zeros_like(change)
            new = kept - mu * part * change
            moved[name] = (before.double() + change - new / mu).to(before.dtype)
            h[name] = new.to(before.dtype)
        return moved, h


class _Dynamic(AtClient):
    """Adds - g_i + mu (w - w_0) to the gradient of each step. In a client's first round g_i is 0."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, mu: float, kept: Tensors
    ) -> None:
        super().__init__(parameters, optimiser)
        self.mu = mu
        self.sent = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.own = {n: kept[n].to(p.device) if n in kept else torch.zeros_like(p) for n, p in parameters.items()}
        pull(optimiser, parameters, self.sent, mu)

    def before_step(self) -> None:
        """g - g_i."""
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                parameter.grad.sub_(self.own[name])

    def kept(self) -> Tensors:
        """g_i - mu (w_i - w_0): the local loss's gradient where the client has come to rest."""
        return {
            name: self.own[name] - self.mu * (parameter.detach() - self.sent[name])
            for name, parameter in self.parameters.items()
        }
