"""Networks that are no longer trained, with less to compute."""

from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


def fold(network: M) -> M:
    """The network, in evaluation mode, with each BatchNorm folded into the convolution before it, in place.

    It says the same but for rounding; its tensors have other names and values from then on.
    """
    for module in list(network.modules()):
        for (name, convolution), (name_after, after) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, after))
                setattr(module, name_after, nn.Identity())
    return network
