"""The three losses of ReBEL's joint training (Eq. 1, 3, 4, 5) and the one of fine-tuning."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fed_rebel.early import EarlyClassifier
from fed_rebel.model.heads import Posterior
from fed_rebel.settings import Loss


@dataclass(frozen=True)
class JointLoss:
    """The terms of Eq. 5 on a batch, each a scalar mean."""

    mimic: Tensor
    """Squared difference between Head2's features and Head's, mean over elements (Eq. 1)."""
    regularisation: Tensor
    """Divergence of the code's posterior from its class's nearest Gaussian, in nats, summed over dimensions (Eq. 3)."""
    early: Tensor
    """Negative log-likelihood of the true class under the early classifier, in nats (Eq. 4)."""

    def weighted(self, weights: Loss) -> Tensor:
        """Eq. 5."""
        return weights.mimic * self.mimic + weights.regularisation * self.regularisation + weights.early * self.early


def joint_loss(
    features: Tensor,
    target: Tensor,
    posterior: Posterior,
    code: Tensor,
    labels: Tensor,
    early: EarlyClassifier,
    present: Tensor | None = None,
) -> JointLoss:
    """The joint loss of a batch.

    Args:
        features: Head2's output [B, channels, 16, 16].
        target: the frozen Head's output, the same shape.
        posterior: Head1's output; mu and log_var [B, 3, 17, 17].
        code: the sample of the posterior that Head2 was given.
        labels: int64 [B].
        present: bool [C]; the early loss leaves the other classes out of the mixture's denominator.
    """
    return JointLoss(
        mimic=mimic_loss(features, target),
        regularisation=early.kl(posterior.mu.flatten(1), posterior.log_var.flatten(1), labels).mean(),
        early=early.loss(code.flatten(1), labels, present),
    )


def mimic_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of two tensors of the same shape and type, float32; the target gets no gradient (Eq. 1).

    torch's `mse_loss` gives back a gradient that is not channels_last whatever it was given, and the backward of all of
    Head2 then works across memory.
    """
    loss: Tensor = _Mimic.apply(features, target)
    return loss


class _Mimic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, target: Tensor) -> Tensor:
        difference = features - target
        ctx.save_for_backward(difference)
        return difference.to(torch.float32, copy=True).square_().mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (gradient * (2 / difference.numel())), None


def finetuning_loss(logits: Tensor, labels: Tensor, log_shares: Tensor | None) -> Tensor:
    """Cross-entropy of logits [B, C]; with the log of the client's label shares [C] added to them, the shared part
    learns what a label looks like and not how frequent it is here (logit adjustment, Menon et al. 2021, Eq. 10).
    """
    return cross_entropy(logits if log_shares is None else logits + log_shares, labels)
