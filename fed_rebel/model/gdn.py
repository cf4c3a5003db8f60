"""Generalised divisive normalisation (Balle, Laparra, Simoncelli 2015, "Density modeling of images ...", Eq. 2)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

_PEDESTAL = 2.0**-36
"""Keeps the square-root parameterisation's gradient alive near 0."""


class GDN(nn.Module):
    """`y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)` over the channels of each pixel, [B, c, h, w] to the same.

    beta [c] and gamma [c, c] stay positive by being squares of what is learnt; they start at 1 and 0.1 I.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.root_beta = nn.Parameter(torch.ones(channels))
        self.root_gamma = nn.Parameter((0.1 * torch.eye(channels) + _PEDESTAL).sqrt())

    @property
    def beta(self) -> Tensor:
        """The additive constants, [c], at least 1e-6."""
        return self.root_beta.square() + 1e-6

    @property
    def gamma(self) -> Tensor:
        """The weights of the squares, [c, c], not negative."""
        return self.root_gamma.square()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel's channels."""
        norm = conv2d(x.square(), self.gamma[:, :, None, None].to(x.dtype), self.beta.to(x.dtype))
        return x * norm.rsqrt()
