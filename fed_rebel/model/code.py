"""The code on its way to the server: drawn from the posterior, and rounded to eight bits."""

import torch
from torch import Tensor, nn

from fed_rebel.model.heads import CODE_SHAPE, Posterior


def sample(posterior: Posterior, generator: torch.Generator) -> Tensor:
    """z = mu + sqrt(sigma) * noise (the reparameterisation of Sec. IV-A), [B, 3, 17, 17]."""
    noise = torch.randn(posterior.mu.shape, generator=generator, device=generator.device).to(posterior.mu.device)
    return torch.addcmul(posterior.mu, torch.exp(0.5 * posterior.log_var), noise)


class EightBitCode(nn.Module):
    """An affine code a channel: 256 levels from `low` to `high`, fixed once on a client's training codes.

    The range is private like Head1 and told to the server once, at connect; never a range per batch.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.full((CODE_SHAPE[0],), -4.0))
        self.register_buffer("high", torch.full((CODE_SHAPE[0],), 4.0))

    def fit(self, codes: Tensor) -> None:
        """Take the range of codes [N, 3, 17, 17], a channel: all but one value in 10,000 at each end."""
        channels = codes.transpose(0, 1).flatten(1).sort(dim=1).values
        outside = channels.shape[1] // 10_000
        self.low.copy_(channels[:, outside])
        self.high.copy_(torch.maximum(channels[:, -1 - outside], self.low + 1e-3))

    def encode(self, code: Tensor) -> Tensor:
        """Codes [B, 3, 17, 17] as levels, uint8; what is outside the range goes to its nearest end."""
        low, step = self._affine()
        return ((code - low) / step).round().clamp(0, 255).to(torch.uint8)

    def decode(self, levels: Tensor) -> Tensor:
        """Levels, uint8 [B, 3, 17, 17], as codes: within half a step of what was encoded from inside the range."""
        low, step = self._affine()
        return low + step * levels.float()

    def forward(self, code: Tensor) -> Tensor:
        """What the server receives: the code through its eight bits."""
        return self.decode(self.encode(code))

    def _affine(self) -> tuple[Tensor, Tensor]:
        low, high = self.low[:, None, None], self.high[:, None, None]
        return low, (high - low) / 255
