"""The Gaussian mixture classifier with diagonal covariances, its backward written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fed_rebel.early.classifier import Spec
from fed_rebel.early.mixture import MIN_SCALE, GaussianMixture


class DiagonalEnergy(torch.autograd.Function):
    """Energies of Gaussians with Sigma = L^2 + I, L diagonal, at points, in y, mu and L.

    (y - mu)^2 / Sigma multiplied out is two matrix products instead of a B x C*K x d tensor. With g the gradient of an
    energy its derivatives are, with q = 1 / Sigma, 2 g q (y - mu) in y, -2 g q (y - mu) in mu, and
    2 g L q (1 - q (y - mu)^2) in L, all of them sums that take two products more.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, means: Tensor, scale: Tensor) -> Tensor:
        """Shapes: y [B, d], mu and L [C*K, d], to [B, C*K]."""
        variances = scale.square().add_(1)
        precisions, squares = variances.reciprocal(), y.square()
        scaled_means = means * precisions
        ctx.save_for_backward(y, squares, means, scale, precisions, scaled_means)
        constants = (scaled_means * means).add_(variances.log_()).sum(1)
        return (squares @ precisions.T).add_(constants).sub_(2 * y @ scaled_means.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The derivatives above, summed with the weights ``grad`` [B, C*K]."""
        y, squares, means, scale, precisions, scaled_means = ctx.saved_tensors
        grad = 2 * grad
        with torch.autocast(y.device.type, enabled=False):
            total, of_y, of_squares = grad.sum(0)[:, None], grad.T @ y, grad.T @ squares
            d_y = (grad @ precisions).mul_(y).sub_(grad @ scaled_means)
        residual = (total * means).sub_(of_y)  # sum of g (mu - y)
        d_means = residual * precisions
        # The sum of g (y - mu)^2 is that of g y^2, and mu times that of g (mu - 2 y).
        distance = of_squares.addcmul_(means, residual.sub_(of_y))
        d_scale = distance.mul_(precisions).neg_().add_(total).mul_(precisions).mul_(scale)
        return d_y, d_means, d_scale


class GMCDiagonal(GaussianMixture):
    """Sigma = L^2 + I with L diagonal (Sec. V): ``scale`` [C, K, d] is L."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, scale_size=spec.dimensions)

    def _energies(self, y: Tensor) -> Tensor:
        # Distances do not depend on the origin, rounding does: it is least with the origin amid the means.
        origin = self.means.detach().mean((0, 1))
        energies: Tensor = DiagonalEnergy.apply(
            y - origin, (self.means - origin).flatten(0, 1), self.scale.flatten(0, 1)
        )
        return energies.view(y.shape[0], *self.log_weights.shape)

    def _nearest_energy(self, mean: Tensor, spread: Tensor, labels: Tensor) -> Tensor:
        if spread.ndim == 3:  # the trace with a diagonal matrix needs the diagonal alone
            spread = spread.diagonal(dim1=1, dim2=2)

        def energy(gaussians: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
            # index_select, not indexing, whose backward on a CPU adds up in another order in each run.
            means, scale = (
                each.flatten(0, 1).index_select(0, gaussians.flatten()).view(*gaussians.shape, self.dimensions)
                for each in (self.means, self.scale)
            )
            variances = scale.square() + 1
            return (variances.log() + ((mean - means).square() + spread) / variances).sum(-1)

        first, components = labels * self.means.shape[1], torch.arange(self.means.shape[1], device=labels.device)
        with torch.no_grad():  # only the nearest is regularised
            nearest = energy(first[:, None] + components, mean[:, None], spread[:, None]).argmin(1)
        return energy(first + nearest, mean, spread)

    @torch.no_grad()
    def _set_variances(self, variances: Tensor) -> None:
        self.scale.copy_((variances - 1).clamp(min=MIN_SCALE**2).sqrt())
