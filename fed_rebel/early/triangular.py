"""Mixtures with a full matrix a Gaussian, learnt as a packed lower triangle."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fed_rebel.early.classifier import Spec
from fed_rebel.early.mixture import GaussianMixture

Groups = dict[int, Tensor]
"""For each class whose Gaussians are wanted, the rows of the batch to put to them, int64 [n]."""


@dataclass(frozen=True, eq=False)
class Triangles:
    """K lower triangular matrices L [K, d, d] as two blocks, so that no product is with the zeros above both.

    The packing is the rectangular full packed form (Gustavson et al. 2010): with h = ceil(d / 2), ``left`` fills
    the lower part of a rectangle [d + 1, h] (d odd: [d, h]), ``right`` its upper part: blocks are moved, not numbers.
    """

    left: Tensor
    """[K, d, h]: the first h columns."""
    right: Tensor
    """[K, d - h, d - h]: the triangle that is left of the others, transposed."""

    @classmethod
    def unpack(cls, packed: Tensor, dimensions: int) -> Self:
        """From the packed form [K, d (d + 1) / 2]; zero outside the triangles."""
        half, rest, even = _halves(dimensions)
        rectangle = packed.view(len(packed), dimensions + even, half)
        # Times ones and zeros: `tril` of a part of a tensor takes a copy of it first.
        lower, upper = packed.new_ones(dimensions, half).tril(), packed.new_ones(rest, rest).triu()
        return cls(rectangle[:, even:] * lower, rectangle[:, :rest, 1 - even :] * upper)

    def pack(self) -> Tensor:
        """[K, d (d + 1) / 2]; what is outside the triangles is left out."""
        dimensions = self.left.shape[1]
        half, rest, even = _halves(dimensions)
        rectangle = self.left.new_empty(len(self.left), dimensions + even, half)
        rectangle[:, even:] = self.left
        upper = torch.ones(rest, rest, dtype=torch.bool, device=self.left.device).triu()
        rectangle[:, :rest, 1 - even :] = torch.where(upper, self.right, rectangle[:, :rest, 1 - even :])
        return rectangle.flatten(1)

    def diagonals(self) -> tuple[Tensor, Tensor]:
        """Views of the first h [K, h] and of the other numbers [K, d - h] of the diagonal."""
        return self.left.diagonal(dim1=1, dim2=2), self.right.diagonal(dim1=1, dim2=2)

    def times(self, x: Tensor) -> Tensor:
        """L x of vectors [K, n, d]."""
        half = self.left.shape[2]
        product = x[:, :, :half] @ self.left.mT
        product[:, :, half:] += x[:, :, half:] @ self.right
        return product

    def transposed_times(self, x: Tensor) -> Tensor:
        """L^T x of vectors [K, n, d]."""
        half = self.left.shape[2]
        return torch.cat([x @ self.left, x[:, :, half:] @ self.right.mT], dim=2)

    def gram(self) -> Tensor:
        """L^T L [K, d, d]."""
        half = self.left.shape[2]
        gram = self.left.new_empty(len(self.left), self.left.shape[1], self.left.shape[1])
        torch.bmm(self.left.mT, self.left, out=gram[:, :half, :half])
        torch.bmm(self.right, self.left[:, half:], out=gram[:, half:, :half])
        torch.bmm(self.right, self.right.mT, out=gram[:, half:, half:])
        gram[:, :half, half:] = gram[:, half:, :half].mT
        return gram

    def gram_diagonal(self) -> Tensor:
        """The diagonal of L^T L [K, d]."""
        return torch.cat([self.left.square().sum(1), self.right.square().sum(2)], dim=1)

    def times_symmetric(self, matrices: Tensor) -> Self:
        """The lower triangles of L X for symmetric X [K, d, d]; what is outside them is left undone."""
        half = self.left.shape[2]
        left, right = self.left @ matrices[:, :half, :half], matrices[:, half:, half:] @ self.right
        left[:, half:].baddbmm_(self.right.mT, matrices[:, half:, :half])
        right.baddbmm_(matrices[:, half:, :half], self.left[:, half:].mT)
        return type(self)(left, right)


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

    def _nearest_energy(self, mean: Tensor, spread: Tensor, labels: Tensor) -> Tensor:
        groups = {c: (labels == c).nonzero()[:, 0] for c in sorted(set(labels.tolist()))}
        energies = self._grouped_energies(mean, spread, groups)
        return energies.index_select(0, torch.cat(list(groups.values())).argsort()).min(1).values
