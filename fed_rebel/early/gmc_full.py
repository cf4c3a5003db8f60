"""The Gaussian mixture classifier with full covariances, its backward written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fed_rebel.early.classifier import Spec
from fed_rebel.early.mixture import MIN_SCALE
from fed_rebel.early.triangular import (
    Groups,
    TriangularMixture,
    diagonal_places,
    pack,
    substantial,
    unpack,
    whitened_energy,
)

Whitening = tuple[Tensor, Tensor]
"""W [C, K, d, d], lower triangular with Sigma^-1 = W^T W, and log |Sigma| [C, K]."""


def whiten(scale: Tensor, dimensions: int) -> Whitening:
    """Factor every Sigma = L^T L + I, given the packed L [C, K, d (d + 1) / 2], one class at a time."""
    # Outside inference mode, whose tensors a later training step could not use.
    with torch.inference_mode(False), torch.no_grad():
        eye = torch.eye(dimensions, dtype=scale.dtype, device=scale.device)
        whitening = scale.new_empty(*scale.shape[:2], dimensions, dimensions)
        log_det = scale.new_empty(scale.shape[:2])
        for c, packed in enumerate(scale.detach()):
            factor = unpack(packed, dimensions)
            cholesky = torch.linalg.cholesky(factor.mT @ factor + eye)
            whitening[c] = torch.linalg.solve_triangular(cholesky, eye, upper=False)
            log_det[c] = 2 * cholesky.diagonal(dim1=1, dim2=2).log().sum(1)
        return whitening, log_det


class GaussianEnergy(torch.autograd.Function):
    """Energies of groups of Gaussians with Sigma = L^T L + I, in y, S, mu and L.

    With a = Sigma^-1 (y - mu), the energy's derivatives are 2 a in y, -2 a in mu, Sigma^-1 in S and
    Sigma^-1 - a a^T - Sigma^-1 S Sigma^-1 in Sigma; and d/dL = 2 L d/dSigma, whose lower triangle counts.
    Both passes take one class at a time: the largest tensor is the whitening itself.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        spread: Tensor | None,
        means: Tensor,
        scale: Tensor,
        whitening: Tensor,
        log_det: Tensor,
        groups: Groups,
    ) -> Tensor:
        """Shapes: y [B, d], S [B, d] or [B, d, d] or None, mu [C, K, d], L packed, to [sum of n, K]."""
        ctx.save_for_backward(y, spread, means, scale, whitening)
        ctx.groups = groups
        energies = []
        for c, rows in groups.items():
            residual = y[rows] - means[c][:, None]
            own_spread = None if spread is None else spread[rows]
            energies.append(whitened_energy(whitening[c], log_det[c], residual, own_spread))
        return torch.cat(energies, dim=1).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The derivatives above, summed over the rows with the weights ``grad`` [sum of n, K]."""
        y, spread, means, scale, whitening = ctx.saved_tensors
        need_scale = ctx.needs_input_grad[3]
        d_y, d_means = torch.zeros_like(y), torch.zeros_like(means)
        d_spread = None if spread is None else torch.zeros_like(spread)
        d_scale = torch.zeros_like(scale) if need_scale else None
        per_group = torch.split(substantial(grad).T, [len(rows) for rows in ctx.groups.values()], dim=1)

        with torch.autocast(y.device.type, enabled=False):
            for (c, rows), g in zip(ctx.groups.items(), per_group, strict=True):
                k = g.any(1).nonzero()[:, 0]  # many Gaussians are far from each row
                g, w = g[k], whitening[c, k]  # [K, n], [K, d, d]
                inverse = w.mT @ w
                a = (y[rows] - means[c, k][:, None]) @ w.mT @ w  # [K, n, d]
                ga = g[:, :, None] * a
                d_y[rows] += 2 * ga.sum(0)
                d_means[c, k] = -2 * ga.sum(1)
                if d_spread is not None:
                    d_spread[rows] += _spread_gradient(inverse, g, diagonal=d_spread.ndim == 2)
                if d_scale is not None:
                    d_sigma = inverse * g.sum(1)[:, None, None] - ga.mT @ a
                    if spread is not None:
                        d_sigma -= _spread_outer(inverse, g, spread[rows])
                    d_scale[c, k] = pack(2 * unpack(scale[c, k], y.shape[1]) @ d_sigma)
        return d_y, d_spread, d_means, d_scale, None, None, None


def _spread_gradient(inverse: Tensor, g: Tensor, *, diagonal: bool) -> Tensor:
    """sum_k g_kn Sigma_k^-1, or its diagonal: [K, d, d], [K, n] to [n, d, d] or [n, d]."""
    if diagonal:
        return g.T @ inverse.diagonal(dim1=1, dim2=2)
    return (g.T @ inverse.flatten(1)).view(-1, *inverse.shape[1:])


def _spread_outer(inverse: Tensor, g: Tensor, spread: Tensor) -> Tensor:
    """Sigma^-1 (sum_n g_kn S_n) Sigma^-1: [K, d, d], [K, n], [n, d] or [n, d, d] to [K, d, d]."""
    total = (g @ spread.flatten(1)).view(-1, *spread.shape[1:])
    return (inverse * total[:, None] if spread.ndim == 2 else inverse @ total) @ inverse


class GMCFull(TriangularMixture):
    """Sigma = L^T L + I with L lower triangular (Sec. V): ``scale`` is L, packed."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._kept: tuple[tuple[int, int], Tensor, Whitening] | None = None

    def whitening(self) -> Whitening:
        """`whiten` of the present L, kept until L changes."""
        version = self.scale._version, self.scale.data_ptr()
        # Fused optimisers write to L without counting up its version, so a part of L is compared as well.
        last_rows = self.scale.detach()[..., -self.dimensions :]
        if self._kept is None or self._kept[0] != version or not torch.equal(self._kept[1], last_rows):
            self._kept = None  # room for the new one: it is the largest tensor here
            self._kept = version, last_rows.clone(), whiten(self.scale, self.dimensions)
        return self._kept[2]

    def _grouped_energies(self, y: Tensor, spread: Tensor | None, groups: Groups) -> Tensor:
        energies: Tensor = GaussianEnergy.apply(y, spread, self.means, self.scale, *self.whitening(), groups)
        return energies

    @torch.no_grad()
    def _set_variances(self, variances: Tensor) -> None:
        self.scale.zero_()
        self.scale[..., diagonal_places(self.dimensions)] = (variances - 1).clamp(min=MIN_SCALE**2).sqrt()
