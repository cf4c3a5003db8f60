"""The Gaussian mixture classifier with full covariances, learnt through their inverses."""

import torch
from torch import Tensor

from fed_rebel.early.triangular import Groups, TriangularMixture, diagonal_places, unpack, whitened_energy


class GMCPrecision(TriangularMixture):
    """Sigma^-1 = P^T P with P lower triangular: nothing has to be factored, in training or after.

    ``scale`` is P, packed, with the logarithm of its diagonal, which so stays positive, in the diagonal's
    place. Unlike L^T L + I, Sigma has no lower bound here.
    """

    def _grouped_energies(self, y: Tensor, spread: Tensor | None, groups: Groups) -> Tensor:
        scales, means = self.scale.unbind(), self.means.unbind()
        energies = []
        for c, rows in groups.items():
            raw = unpack(scales[c], self.dimensions)
            log_diagonal = raw.diagonal(dim1=1, dim2=2)
            factor = raw.tril(-1) + log_diagonal.exp().diag_embed()
            residual = y.index_select(0, rows) - means[c][:, None]
            own_spread = None if spread is None else spread.index_select(0, rows)
            energies.append(whitened_energy(factor, -2 * log_diagonal.sum(1), residual, own_spread))
        return torch.cat(energies, dim=1).T

    @torch.no_grad()
    def _set_variances(self, variances: Tensor) -> None:
        self.scale.zero_()
        self.scale[..., diagonal_places(self.dimensions)] = -0.5 * variances.log()
