"""Mixtures with a full matrix a Gaussian, learnt as a packed lower triangle."""

from abc import abstractmethod

import torch
from torch import Tensor

from fed_rebel.early.classifier import Spec
from fed_rebel.early.mixture import GaussianMixture

Groups = dict[int, Tensor]
"""For each class whose Gaussians are wanted, the rows of the batch to put to them, int64 [n]."""


def unpack(packed: Tensor, dimensions: int) -> Tensor:
    """Lower triangles from their rows end to end: [K, d (d + 1) / 2] to [K, d, d]."""
    dense = packed.new_zeros(len(packed), dimensions**2)
    return dense.index_copy(1, _places(dimensions, packed.device), packed).view(-1, dimensions, dimensions)


def pack(dense: Tensor) -> Tensor:
    """The lower triangles of [K, d, d] as [K, d (d + 1) / 2], what is above them left out."""
    return dense.flatten(1).index_select(1, _places(dense.shape[2], dense.device))


def diagonal_places(dimensions: int) -> Tensor:
    """Where a packed triangle holds its diagonal, int64 [d]."""
    rows = torch.arange(dimensions)
    return rows * (rows + 3) // 2


def _places(dimensions: int, device: torch.device) -> Tensor:
    rows, columns = torch.tril_indices(dimensions, dimensions, device=device).unbind()
    return rows * dimensions + columns


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
