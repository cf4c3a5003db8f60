"""The Gaussian mixture classifier with diagonal covariances."""

import torch
from torch import Tensor

from fed_rebel.early.classifier import Spec
from fed_rebel.early.mixture import MIN_SCALE, GaussianMixture


class GMCDiagonal(GaussianMixture):
    """Sigma = L^2 + I with L diagonal (Sec. V): ``scale`` [C, K, d] is L."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, scale_size=spec.dimensions)

    def _energies(self, y: Tensor) -> Tensor:
        # (y - mu)^2 / Sigma multiplied out is two matrix products instead of a B x C*K x d tensor. Distances
        # do not depend on the origin, rounding does: it is least with the origin amid the means.
        origin = self.means.detach().mean((0, 1))
        y, means = y - origin, (self.means - origin).flatten(0, 1)
        variances = self.scale.flatten(0, 1).square() + 1
        scaled_means = means / variances
        constants = variances.log().sum(1) + (scaled_means * means).sum(1)
        energies = constants + y.square() @ variances.reciprocal().T - 2 * y @ scaled_means.T
        return energies.view(y.shape[0], *self.log_weights.shape)

    def _label_energies(self, mean: Tensor, spread: Tensor, labels: Tensor) -> Tensor:
        if spread.ndim == 3:  # the trace with a diagonal matrix needs the diagonal alone
            spread = spread.diagonal(dim1=1, dim2=2)
        # index_select, not indexing, whose backward on a CPU adds up in another order in each run.
        means = self.means.index_select(0, labels)
        variances = self.scale.index_select(0, labels).square() + 1
        return (variances.log() + ((mean[:, None] - means).square() + spread[:, None]) / variances).sum(2)

    @torch.no_grad()
    def _set_variances(self, variances: Tensor) -> None:
        self.scale.copy_((variances - 1).clamp(min=MIN_SCALE**2).sqrt())
