"""The Gaussian mixture classifier with full covariances, learnt through their inverses; its backward written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fed_rebel.early.triangular import Groups, Triangles, TriangularMixture, diagonal_places, substantial


def _factor(packed: Tensor, dimensions: int) -> tuple[Triangles, Tensor]:
    """P and log |P| [K, 1] from the packed form, which has the logarithm of the diagonal in the diagonal's place."""
    factor = Triangles.unpack(packed, dimensions)
    first, others = factor.diagonals()
    log_det = first.sum(1, keepdim=True) + others.sum(1, keepdim=True)
    first.exp_(), others.exp_()
    return factor, log_det


def _gram(factor: Triangles, spread: Tensor) -> Tensor:
    """P^T P as far as the trace with the spread wants it: all of it, flat, or its diagonal."""
    return factor.gram_diagonal() if spread.ndim == 2 else factor.gram().flatten(1)


class PrecisionEnergy(torch.autograd.Function):
    """Energies of groups of Gaussians with Sigma^-1 = P^T P, in y, S, mu and P.

    With w = P (y - mu), the energy's derivatives are 2 P^T w in y, -2 P^T w in mu, P^T P in S, and
    2 w (y - mu)^T + 2 P S - 2 diag(1 / P_ii) in P. Both passes take one class at a time, so that no more than its
    factors are ever unpacked.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, spread: Tensor | None, means: Tensor, scale: Tensor, groups: Groups) -> Tensor:
        """Shapes: y [B, d], S [B, d], [B, d, d] or None, mu [C, K, d], P packed, to [sum of n, K]."""
        ctx.save_for_backward(y, spread, means, scale)
        ctx.groups = groups
        energies = []
        for c, rows in groups.items():
            factor, log_det = _factor(scale[c], y.shape[1])
            energy = factor.times(y[rows] - means[c][:, None]).square().sum(2) - 2 * log_det
            if spread is not None:
                energy += _gram(factor, spread) @ spread[rows].flatten(1).T
            energies.append(energy)
        return torch.cat(energies, dim=1).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives above, summed over the rows with the weights ``grad`` [sum of n, K]."""
        y, spread, means, scale = ctx.saved_tensors
        d_y, d_means, d_scale = torch.zeros_like(y), torch.zeros_like(means), torch.zeros_like(scale)
        d_spread = None if spread is None else torch.zeros_like(spread)
        per_group = torch.split(substantial(grad).T, [len(rows) for rows in ctx.groups.values()], dim=1)
        with torch.autocast(y.device.type, enabled=False):
            for (c, rows), g in zip(ctx.groups.items(), per_group, strict=True):
                k = g.any(1).nonzero()[:, 0]  # many Gaussians are far from each row
                g, (factor, _) = g[k], _factor(scale[c].index_select(0, k), y.shape[1])  # g [K, n]
                residual = y[rows] - means[c, k][:, None]  # [K, n, d]
                gw = 2 * g[:, :, None] * factor.times(residual)
                d_residual = factor.transposed_times(gw)
                d_y[rows] += d_residual.sum(0)
                d_means[c, k] = -d_residual.sum(1)
                half = factor.left.shape[2]
                d_left = gw.mT @ residual[:, :, :half]
                d_right = residual[:, :, half:].mT @ gw[:, :, half:]
                if spread is not None and d_spread is not None:
                    d_spread[rows] += (g.T @ _gram(factor, spread)).view(-1, *spread.shape[1:])
                    total = 2 * (g @ spread[rows].flatten(1)).view(-1, *spread.shape[1:])
                    if spread.ndim == 2:
                        d_left += factor.left * total[:, None, :half]
                        d_right += factor.right * total[:, half:, None]
                    else:
                        of_total = factor.times(total)
                        d_left += of_total[:, :half].mT
                        d_right += of_total[:, half:, half:]
                d_factor = Triangles(d_left, d_right)
                for d_diagonal, diagonal in zip(d_factor.diagonals(), factor.diagonals(), strict=True):
                    d_diagonal.mul_(diagonal).sub_(2 * g.sum(1, keepdim=True))  # in its logarithm
                d_scale[c].index_copy_(0, k, d_factor.pack())
        return d_y, d_spread, d_means, d_scale, None


class GMCPrecision(TriangularMixture):
    """Sigma^-1 = P^T P with P lower triangular: nothing has to be factored, in training or after.

    ``scale`` is P, packed, with the logarithm of its diagonal, which so stays positive, in the diagonal's
    place. Unlike L^T L + I, Sigma has no lower bound here.
    """

    def _grouped_energies(self, y: Tensor, spread: Tensor | None, groups: Groups) -> Tensor:
        energies: Tensor = PrecisionEnergy.apply(y, spread, self.means, self.scale, groups)
        return energies

    @torch.no_grad()
    def _set_variances(self, variances: Tensor) -> None:
        self.scale.zero_()
        self.scale[..., diagonal_places(self.dimensions)] = -0.5 * variances.log()
