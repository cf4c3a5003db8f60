"""Against the drift of clients: what is done to the gradients of each step before the optimiser takes it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_


def clip(optimiser: torch.optim.Optimizer, norm: float) -> None:
    """Shorten the gradient of all that the optimiser trains, taken together, to `norm` where it is longer."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]

    def before_step(*_: object) -> None:
        clip_grad_norm_(parameters, norm)

    optimiser.register_step_pre_hook(before_step)


def pull(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    towards: Mapping[str, Tensor],
    strength: float,
) -> None:
    """Add the gradient of `strength` / 2 times the squared distance of the parameters from `towards`."""

    def before_step(*_: object) -> None:
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - towards[name], alpha=strength)

    optimiser.register_step_pre_hook(before_step)
