"""The fixed random projection in front of the Gaussian mixtures."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn


class AchlioptasProjection(nn.Module):
    """A sparse random matrix R that keeps squared lengths in the mean: E |R z|^2 = |z|^2 (Achlioptas 2003).

    Entries are sqrt(3 / d) * {+1, 0, -1} with probabilities 1/6, 2/3, 1/6 for d output dimensions. The matrix
    is a function of the seed alone, so every client of a run has the same one and it is never sent or saved.
    """

    matrix: Tensor

    def __init__(self, code: int, dimensions: int, seed: int) -> None:
        """Draw the matrix [dimensions, code]. ``seed`` is a non-negative integer."""
        super().__init__()
        self.register_buffer("matrix", _draw(code, dimensions, seed), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Project codes: [..., code] to [..., dimensions]."""
        return z @ self.matrix.T

    def variances(self, variances: Tensor) -> Tensor:
        """The diagonal of R diag(variances) R^T: [B, code] to [B, dimensions]."""
        return variances @ self.matrix.square().T

    def covariances(self, variances: Tensor) -> Tensor:
        """R diag(variances) R^T: [B, code] to [B, dimensions, dimensions]."""
        matrix = self.matrix.to(variances.dtype)
        return (matrix * variances[:, None]) @ matrix.T


@lru_cache(maxsize=8)
def _draw(code: int, dimensions: int, seed: int) -> Tensor:
    """One matrix for all the models that a process builds, as it does for each message to a client; read only."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(b"projection")))
    signs = np.array([1, -1, 0, 0, 0, 0])[rng.integers(6, size=(dimensions, code))]
    with torch.inference_mode(False):  # a model that is trained later takes the same one
        return torch.from_numpy((np.sqrt(3 / dimensions) * signs).astype(np.float32))
