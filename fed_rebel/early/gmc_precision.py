"""The Gaussian mixture classifier with full covariances, learnt through their inverses; its backward written out."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fed_rebel.early.triangular import Groups, TriangularMixture, blocks, diagonal_places, pack_blocks, substantial


@dataclass(frozen=True, eq=False)
class Factor:
    """P [K, d, d], lower triangular, as two blocks: a quarter of every product with it is with zeros, and left out."""

    left: Tensor
    """[K, d, h]: the first h columns."""
    right: Tensor
    """[K, d - h, d - h]: the triangle that is left of the others, transposed."""

    @classmethod
    def of(cls, scale: Tensor, diagonal: Tensor) -> Self:
        """From the packed form, with the logarithm of the diagonal in its places [d]."""
        scale = scale.clone()
        scale[:, diagonal] = scale[:, diagonal].exp()
        return cls(*blocks(scale, len(diagonal)))

    def times(self, x: Tensor) -> Tensor:
        """P x of [K, n, d]."""
        half = self.left.shape[2]
        product = x[:, :, :half] @ self.left.mT
        product[:, :, half:] += x[:, :, half:] @ self.right
        return product

    def transposed_times(self, x: Tensor) -> Tensor:
        """P^T x of [K, n, d]."""
        half = self.left.shape[2]
        return torch.cat([x @ self.left, x[:, :, half:] @ self.right.mT], dim=2)

    def gram(self, *, diagonal: bool) -> Tensor:
        """P^T P [K, d, d], or its diagonal [K, d]."""
        if diagonal:
            return torch.cat([self.left.square().sum(1), self.right.square().sum(2)], dim=1)
        eye = torch.eye(self.left.shape[1], dtype=self.left.dtype, device=self.left.device)
        return self.transposed_times(self.times(eye.expand(len(self.left), -1, -1)))


class PrecisionEnergy(torch.autograd.Function):
    """Energies of groups of Gaussians with Sigma^-1 = P^T P, in y, S, mu and P.

    With w = P (y - mu), the energy's derivatives are 2 P^T w in y, -2 P^T w in mu, P^T P in S, and
    2 w (y - mu)^T + 2 P S - 2 diag(1 / P_ii) in P. Both passes take one class at a time, so that no more than its
    factors are ever unpacked.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, spread: Tensor | None, means: Tensor, scale: Tensor, diagonal: Tensor, groups: Groups
    ) -> Tensor:
        """Shapes: y [B, d], S [B, d], [B, d, d] or None, mu [C, K, d], P packed, the places of its
        diagonal [d], to [sum of n, K]."""
        ctx.save_for_backward(y, spread, means, scale, diagonal)
        ctx.groups = groups
        energies = []
        for c, rows in groups.items():
            factor = Factor.of(scale[c], diagonal)
            energy = (
                factor.times(y[rows] - means[c][:, None]).square().sum(2) - 2 * scale[c][:, diagonal].sum(1)[:, None]
            )
            if spread is not None:
                energy += factor.gram(diagonal=spread.ndim == 2).flatten(1) @ spread[rows].flatten(1).T
            energies.append(energy)
        return torch.cat(energies, dim=1).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives above, summed over the rows with the weights ``grad`` [sum of n, K]."""
        y, spread, means, scale, diagonal = ctx.saved_tensors
        d_y, d_means, d_scale = torch.zeros_like(y), torch.zeros_like(means), torch.zeros_like(scale)
        d_spread = None if spread is None else torch.zeros_like(spread)
        half = (len(diagonal) + 1) // 2
        per_group = torch.split(substantial(grad).T, [len(rows) for rows in ctx.groups.values()], dim=1)
        with torch.autocast(y.device.type, enabled=False):
            for (c, rows), g in zip(ctx.groups.items(), per_group, strict=True):
                k = g.any(1).nonzero()[:, 0]  # many Gaussians are far from each row
                g, packed = g[k], scale[c].index_select(0, k)  # [K, n], [K, d (d + 1) / 2]
                factor = Factor.of(packed, diagonal)
                residual = y[rows] - means[c, k][:, None]  # [K, n, d]
                gw = 2 * g[:, :, None] * factor.times(residual)
                d_residual = factor.transposed_times(gw)
                d_y[rows] += d_residual.sum(0)
                d_means[c, k] = -d_residual.sum(1)
                d_left = gw.mT @ residual[:, :, :half]
                d_right = residual[:, :, half:].mT @ gw[:, :, half:]
                if spread is not None and d_spread is not None:
                    gram = factor.gram(diagonal=spread.ndim == 2)
                    d_spread[rows] += (g.T @ gram.flatten(1)).view(-1, *spread.shape[1:])
                    total = 2 * (g @ spread[rows].flatten(1)).view(-1, *spread.shape[1:])
                    if spread.ndim == 2:
                        d_left += factor.left * total[:, None, :half]
                        d_right += factor.right * total[:, half:, None]
                    else:
                        of_total = factor.times(total)
                        d_left += of_total[:, :half].mT
                        d_right += of_total[:, half:, half:]
                d_packed = pack_blocks(d_left, d_right)
                d_packed[:, diagonal] = d_packed[:, diagonal] * packed[:, diagonal].exp() - 2 * g.sum(1)[:, None]
                d_scale[c].index_copy_(0, k, d_packed)
        return d_y, d_spread, d_means, d_scale, None, None


class GMCPrecision(TriangularMixture):
    """Sigma^-1 = P^T P with P lower triangular: nothing has to be factored, in training or after.

    ``scale`` is P, packed, with the logarithm of its diagonal, which so stays positive, in the diagonal's
    place. Unlike L^T L + I, Sigma has no lower bound here.
    """

    def _grouped_energies(self, y: Tensor, spread: Tensor | None, groups: Groups) -> Tensor:
        diagonal = diagonal_places(self.dimensions).to(y.device)
        energies: Tensor = PrecisionEnergy.apply(y, spread, self.means, self.scale, diagonal, groups)
        return energies

    @torch.no_grad()
    def _set_variances(self, variances: Tensor) -> None:
        self.scale.zero_()
        self.scale[..., diagonal_places(self.dimensions)] = -0.5 * variances.log()
