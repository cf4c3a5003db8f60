"""The variational head that replaces Head: Head1 on the device, Head2 on the server (Sec. IV-A)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fed_rebel.model.gdn import GDN

CODE_SHAPE = (3, 17, 17)
"""z: 867 values, at eight bits 867 bytes, 0.28 of a 3,072-byte image."""
CODE_SIZE = 867


LOG_VAR_START = -6.0
"""The posterior starts with a standard deviation of about 0.05."""


class Posterior(NamedTuple):
    """N(mu, diag(exp(log_var))) over z, both [B, 3, 17, 17]."""

    mu: Tensor
    log_var: Tensor


class Head1(nn.Module):
    """Images [B, 3, 32, 32] to the posterior of their code.

    Four convolutions, GDN after all but the last; 32,496 parameters. The stride-2 convolution takes 32 to 16, the
    2 x 2 convolution with padding 1 takes 16 to 17.
    """

    def __init__(self, channels: int = 38) -> None:
        super().__init__()
        last = nn.Conv2d(channels, 2 * CODE_SHAPE[0], 2, padding=1)
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=2, padding=1),
            GDN(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            GDN(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            GDN(channels),
            last,
        )
        _start(self)
        # A code that starts as noise teaches Head2 nothing: the posterior starts narrow.
        with torch.no_grad():
            last.bias[CODE_SHAPE[0] :] = LOG_VAR_START  # type: ignore[index]

    def forward(self, images: Tensor) -> Posterior:
        """The posterior in float32, log-variances within [-12, 6]."""
        mu, log_var = self.layers(images).float().chunk(2, dim=1)
        # Bounded so that no variance overflows or vanishes in float32 whatever a client's data do.
        return Posterior(mu, log_var.clamp(-12.0, 6.0))


class Head2(nn.Module):
    """Codes [B, 3, 17, 17] to features [B, outputs, 16, 16] that imitate Head's.

    Four convolutions, GDN after the first three, and BatchNorm and ReLU as at Head's end; no deconvolution. It is as
    wide as Head's output, at most 84 channels, which for ResNet-50 gives 538,296 parameters (Table I leaves 0.53 M).
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        width = min(outputs, 84)
        self.layers = nn.Sequential(
            nn.Conv2d(CODE_SHAPE[0], width, 2),
            GDN(width),
            nn.Conv2d(width, width, 3, padding=1),
            GDN(width),
            nn.Conv2d(width, width, 3, padding=1),
            GDN(width),
            nn.Conv2d(width, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )
        _start(self)

    def forward(self, code: Tensor) -> Tensor:
        """Features, not negative."""
        features: Tensor = self.layers(code)
        return features


def _start(head: nn.Module) -> None:
    """Start the convolutions so that they keep their input's variance; torch's own start shrinks it threefold each."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
