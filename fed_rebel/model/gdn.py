"""Generalised divisive normalisation (Balle, Laparra, Simoncelli 2015, "Density modeling of images ...", Eq. 2)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        y: Tensor = _Normalised.apply(x, self.gamma[:, :, None, None].to(x.dtype), self.beta.to(x.dtype))
        return y


class _Normalised(torch.autograd.Function):
    """`x n^(-1/2)` of the norm `n = beta + gamma x^2`, with a gradient of four passes over the pixels.

    With `h = g n^(-1/2)`, g the gradient at y, `dL/dn = -1/2 h y n^(-1/2)` and `dL/dx = h + 2 x gamma^T dL/dn`.
    Left to autograd each factor is a pass of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        square = x.square()
        inverse = conv2d(square, gamma, beta).rsqrt_()
        y = x * inverse
        ctx.save_for_backward(x, square, inverse, y, gamma)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, square, inverse, y, gamma = ctx.saved_tensors
        of_x = gradient * inverse
        of_norm = (of_x * y).mul_(inverse)  # times -2
        one, none = [1, 1], [0, 0]
        of_square, of_gamma, of_beta = torch.ops.aten.convolution_backward(
            of_norm, square, gamma, [len(gamma)], one, none, one, False, none, 1, list(ctx.needs_input_grad)
        )
        if of_square is not None:
            of_x.addcmul_(x, of_square, value=-1)
        return of_x, *(of if of is None else of.mul_(-0.5) for of in (of_gamma, of_beta))
