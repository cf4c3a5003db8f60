"""The Gaussian mixture classifier with full covariances, its backward written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fed_rebel.early.classifier import Spec
from fed_rebel.early.mixture import MIN_SCALE
from fed_rebel.early.triangular import Groups, Triangles, TriangularMixture, diagonal_places, substantial

Inverses = tuple[Tensor, Tensor]
"""Sigma^-1 [C, K, d, d] and log |Sigma| [C, K]."""


def invert(scale: Tensor, dimensions: int, at_once: int) -> Inverses:
    """Invert every Sigma = L^T L + I, given the packed L [C, K, d (d + 1) / 2], so many classes at once."""
    # Outside inference mode, whose tensors a later training step could not use.
    with torch.inference_mode(False), torch.no_grad():
        inverses = scale.new_empty(*scale.shape[:2], dimensions, dimensions)
        log_det = scale.new_empty(scale.shape[:2])
        for c in range(0, len(scale), at_once):
            classes = slice(c, c + at_once)
            sigma = Triangles.unpack(scale[classes].detach().flatten(0, 1), dimensions).gram()
            sigma.diagonal(dim1=1, dim2=2).add_(1)
            cholesky = torch.linalg.cholesky(sigma)
            # Transposed, the symmetric matrices lie column by column, as LAPACK writes them.
            torch.cholesky_inverse(cholesky, out=inverses[classes].flatten(0, 1).mT)
            log_det[classes] = 2 * cholesky.diagonal(dim1=1, dim2=2).log().sum(1).view(-1, scale.shape[1])
        return inverses, log_det


class GaussianEnergy(torch.autograd.Function):
    """Energies of groups of Gaussians with Sigma = L^T L + I, in y, S, mu and L.

    With a = Sigma^-1 (y - mu), the energy's derivatives are 2 a in y, -2 a in mu, Sigma^-1 in S and
    Sigma^-1 - a a^T - Sigma^-1 S Sigma^-1 in Sigma; and d/dL = 2 L d/dSigma, whose lower triangle counts.
    Both passes take one class at a time: the largest tensor are the inverses themselves.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        spread: Tensor | None,
        means: Tensor,
        scale: Tensor,
        inverses: Tensor,
        log_det: Tensor,
        groups: Groups,
    ) -> Tensor:
        """Shapes: y [B, d], S [B, d] or [B, d, d] or None, mu [C, K, d], L packed, to [sum of n, K]."""
        ctx.save_for_backward(y, spread, means, scale, inverses)
        ctx.groups = groups
        energies = []
        for c, rows in groups.items():
            residual = y[rows] - means[c][:, None]
            energy = log_det[c][:, None] + ((residual @ inverses[c]) * residual).sum(2)
            if spread is not None:
                energy += _traced(inverses[c], spread) @ spread[rows].flatten(1).T
            energies.append(energy)
        return torch.cat(energies, dim=1).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives above, summed over the rows with the weights ``grad`` [sum of n, K]."""
        y, spread, means, scale, inverses = ctx.saved_tensors
        need_scale = ctx.needs_input_grad[3]
        d_y, d_means = torch.zeros_like(y), torch.zeros_like(means)
        d_spread = None if spread is None else torch.zeros_like(spread)
        d_scale = torch.zeros_like(scale) if need_scale else None
        per_group = torch.split(substantial(grad).T, [len(rows) for rows in ctx.groups.values()], dim=1)

        with torch.autocast(y.device.type, enabled=False):
            for (c, rows), g in zip(ctx.groups.items(), per_group, strict=True):
                k = g.any(1).nonzero()[:, 0]  # many Gaussians are far from each row
                g, inverse = g[k], inverses[c].index_select(0, k)  # [K, n], [K, d, d]
                a = (y[rows] - means[c, k][:, None]) @ inverse  # [K, n, d]
                ga = 2 * g[:, :, None] * a
                d_y[rows] += ga.sum(0)
                d_means[c, k] = -ga.sum(1)
                if spread is not None and d_spread is not None:
                    d_spread[rows] += (g.T @ _traced(inverse, spread)).view(-1, *spread.shape[1:])
                if d_scale is not None:
                    outer = None if spread is None else 2 * _spread_outer(inverse, g, spread[rows])
                    d_sigma = inverse.mul_(2 * g.sum(1)[:, None, None]).baddbmm_(ga.mT, a, alpha=-1)
                    if outer is not None:
                        d_sigma -= outer
                    factor = Triangles.unpack(scale[c].index_select(0, k), y.shape[1])
                    d_scale[c].index_copy_(0, k, factor.times_symmetric(d_sigma).pack())
        return d_y, d_spread, d_means, d_scale, None, None, None


def _traced(inverse: Tensor, spread: Tensor) -> Tensor:
    """Sigma^-1 as far as the trace with the spread wants it: all of it, flat, or its diagonal."""
    return inverse.diagonal(dim1=1, dim2=2) if spread.ndim == 2 else inverse.flatten(1)


def _spread_outer(inverse: Tensor, g: Tensor, spread: Tensor) -> Tensor:
    """Sigma^-1 (sum_n g_kn S_n) Sigma^-1: [K, d, d], [K, n], [n, d] or [n, d, d] to [K, d, d]."""
    total = (g @ spread.flatten(1)).view(-1, *spread.shape[1:])
    return (inverse * total[:, None] if spread.ndim == 2 else inverse @ total) @ inverse


class GMCFull(TriangularMixture):
    """Sigma = L^T L + I with L lower triangular (Sec. V): ``scale`` is L, packed."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._kept: tuple[tuple[int, int], Tensor, Inverses] | None = None

    def inverses(self) -> Inverses:
        """`invert` of the present L, kept until L changes."""
        version = self.scale._version, self.scale.data_ptr()
        # Fused optimisers write to L without counting up its version, so a part of L is compared as well.
        last_rows = self.scale.detach()[..., -self.dimensions :]
        if self._kept is None or self._kept[0] != version or not torch.equal(self._kept[1], last_rows):
            self._kept = None  # room for the new one: it is the largest tensor here
            at_once = len(self.scale) if self.scale.is_cuda else 1  # a CPU has one in its cache, a GPU waits for calls
            self._kept = version, last_rows.clone(), invert(self.scale, self.dimensions, at_once)
        return self._kept[2]

    def _grouped_energies(self, y: Tensor, spread: Tensor | None, groups: Groups) -> Tensor:
        energies: Tensor = GaussianEnergy.apply(y, spread, self.means, self.scale, *self.inverses(), groups)
        return energies

    @torch.no_grad()
    def _set_variances(self, variances: Tensor) -> None:
        self.scale.zero_()
        self.scale[..., diagonal_places(self.dimensions)] = (variances - 1).clamp(min=MIN_SCALE**2).sqrt()
