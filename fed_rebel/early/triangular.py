"""Mixtures with a full matrix a Gaussian, learnt as a packed lower triangle."""

from abc import abstractmethod

import torch
from torch import Tensor

from fed_rebel.early.classifier import Spec
from fed_rebel.early.mixture import GaussianMixture

Groups = dict[int, Tensor]
"""For each class whose Gaussians are wanted, the rows of the batch to put to them, int64 [n]."""


def blocks(packed: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """A lower triangle's left half of columns, and, transposed, the small triangle that is left of it.

    [K, d (d + 1) / 2] to [K, d, h] and [K, d - h, d - h] with h = ceil(d / 2), zero where the triangle is. The
    packing is the rectangular full packed form (Gustavson et al. 2010): the one fills the lower part of a rectangle
    [d + 1, h] (d odd: [d, h]), the other its upper part, so that blocks are moved, not single numbers.
    """
    half, rest, even = _halves(dimensions)
    rectangle = packed.view(len(packed), dimensions + even, half)
    return rectangle[:, even:].tril(), rectangle[:, :rest, 1 - even :].triu()


def pack_blocks(left: Tensor, right: Tensor) -> Tensor:
    """What `blocks` took apart; what is outside the triangles is left out."""
    dimensions = left.shape[1]
    half, rest, even = _halves(dimensions)
    rectangle = left.new_empty(len(left), dimensions + even, half)
    rectangle[:, even:] = left
    upper = torch.ones(rest, rest, dtype=torch.bool, device=left.device).triu()
    rectangle[:, :rest, 1 - even :] = torch.where(upper, right, rectangle[:, :rest, 1 - even :])
    return rectangle.flatten(1)


def unpack(packed: Tensor, dimensions: int) -> Tensor:
    """Lower triangles [K, d, d] from their packed form."""
    left, right = blocks(packed, dimensions)
    dense = packed.new_zeros(len(packed), dimensions, dimensions)
    dense[:, :, : left.shape[2]] = left
    dense[:, left.shape[2] :, left.shape[2] :] = right.mT
    return dense


def pack(dense: Tensor) -> Tensor:
    """The lower triangles of [K, d, d] as [K, d (d + 1) / 2], what is above them left out."""
    half = _halves(dense.shape[1])[0]
    return pack_blocks(dense[:, :, :half], dense[:, half:, half:].mT)


def diagonal_places(dimensions: int) -> Tensor:
    """Where a packed triangle holds its diagonal, int64 [d]."""
    half, rest, even = _halves(dimensions)
    left, right = torch.arange(half), torch.arange(rest)
    return torch.cat([(left + even) * half + left, right * half + right + 1 - even])


def _halves(dimensions: int) -> tuple[int, int, int]:
    """Columns in the left half, the others, and whether both are as many."""
    half = (dimensions + 1) // 2
    return half, dimensions - half, 1 - dimensions % 2


def substantial(grad: Tensor) -> Tensor:
    """Weights of rows and Gaussians without those that change nothing, and that as denormal numbers would be slow.

    The responsibilities of far Gaussians fall like exp(-distance^2); a step of Adam is blind below its 1e-8.
    """
    return grad.masked_fill(grad.abs() < 1e-20, 0)


def whitened_energy(whitening: Tensor, log_det: Tensor, residual: Tensor, spread: Tensor | None) -> Tensor:
    """Energy of K Gaussians at n distributions, from W with Sigma^-1 = W^T W.

    Shapes: W [K, d, d], log |Sigma| [K], y - mu [K, n, d], S [n, d] or [n, d, d] (None: points) to [K, n].
    """
    energy: Tensor = log_det[:, None] + (residual @ whitening.mT).square().sum(2)
    if spread is None:
        return energy
    if spread.ndim == 2:
        return energy + whitening.square().sum(1) @ spread.T
    return energy + (whitening.mT @ whitening).flatten(1) @ spread.flatten(1).T


class TriangularMixture(GaussianMixture):
    """``scale`` [C, K, d (d + 1) / 2] holds a lower triangular matrix for each Gaussian."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec, scale_size=spec.dimensions * (spec.dimensions + 1) // 2)

    @abstractmethod
    def _grouped_energies(self, y: Tensor, spread: Tensor | None, groups: Groups) -> Tensor:
        """Energies of each group's Gaussians at its rows, group after group: y [B, d] to [sum of n, K]."""

    def _energies(self, y: Tensor) -> Tensor:
        classes, components = self.log_weights.shape
        every_row = torch.arange(len(y), device=y.device)
        energies = self._grouped_energies(y, None, dict.fromkeys(range(classes), every_row))
        return energies.view(classes, len(y), components).transpose(0, 1)

    def _label_energies(self, mean: Tensor, spread: Tensor, labels: Tensor) -> Tensor:
        groups = {c: (labels == c).nonzero()[:, 0] for c in sorted(set(labels.tolist()))}
        energies = self._grouped_energies(mean, spread, groups)
        return energies.index_select(0, torch.cat(list(groups.values())).argsort())
