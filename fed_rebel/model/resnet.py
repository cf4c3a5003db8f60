"""The base model: a ResNet for 32 x 32 images, cut in two.

`Head` is the stem and the first two residual groups, `Tail` the other groups, pooling and the linear layer
(ReBEL, Sec. IV-A and design of Fig. 2). Every backbone is cut in the same place and every Head ends in a 16 x 16 map.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Head(nn.Sequential):
    """Stem and two residual groups: images [B, 3, 32, 32] to features [B, channels, 16, 16].

    The frozen Head is the target of the mimic loss (Eq. 1).
    """

    def __init__(self, stem: nn.Module, group1: nn.Module, group2: nn.Module, channels: int) -> None:
        super().__init__()
        self.stem, self.group1, self.group2 = stem, group1, group2
        self.channels = channels


class Tail(nn.Sequential):
    """The remaining groups, pooling and the linear layer: features [B, channels, 16, 16] to logits [B, C]."""

    def __init__(self, groups: list[nn.Module], features: int, classes: int) -> None:
        super().__init__()
        for number, group in enumerate(groups, start=3):
            self.add_module(f"group{number}", group)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(features, classes)


class BaseModel(nn.Module):
    """`Tail(Head(x))`: the pre-trained classifier that ReBEL starts from."""

    def __init__(self, head: Head, tail: Tail) -> None:
        super().__init__()
        self.head, self.tail = head, tail

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] to logits [B, C]."""
        logits: Tensor = self.tail(self.head(images))
        return logits


def _stem(channels: int) -> nn.Sequential:
    """3 x 3, stride 1, no max pooling: keeps the resolution of a 32 x 32 image."""
    convolution = nn.Conv2d(3, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016, Fig. 2): [B, inputs, h, w] to [B, outputs, h', w'].

    As torchvision's, weights and all; to import torchvision takes seconds, and the thin ResNet needs no more of it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum of both ways."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        residual += x if self.downsample is None else self.downsample(x)
        sum_: Tensor = self.relu(residual)
        return sum_


def _resnet20(classes: int, widths: tuple[int, int, int] = (32, 64, 128)) -> BaseModel:
    """The CIFAR ResNet of He et al. 2016 (Sec. 4.2): three groups of three basic blocks, cut after the second."""

    def group(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(2)))

    one, two, three = widths
    head = Head(_stem(one), group(one, one, 1), group(one, two, 2), channels=two)
    model = BaseModel(head, Tail([group(two, three, 2)], three, classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, BasicBlock):
            # Each block starts as its shortcut, which makes the first epochs of a short training faster.
            nn.init.zeros_(module.bn2.weight)
    return model


def _torchvision(name: str, channels: int) -> Callable[[int], BaseModel]:
    def build(classes: int) -> BaseModel:
        from torchvision.models import get_model  # seconds to import

        network = get_model(name, weights=None, num_classes=classes, zero_init_residual=True)
        head = Head(_stem(64), network.layer1, network.layer2, channels)
        tail = Tail([network.layer3, network.layer4], network.fc.in_features, classes)
        tail.fc = network.fc
        return BaseModel(head, tail)

    return build


BACKBONES: dict[str, Callable[[int], BaseModel]] = {
    "resnet20": _resnet20,
    "resnet18": _torchvision("resnet18", channels=128),
    "resnet50": _torchvision("resnet50", channels=512),
}


def build_base_model(backbone: str, classes: int, seed: int) -> BaseModel:
    """A base model with fresh weights that depend on the seed alone (the global random state is left as it was).

    `backbone` is a key of `BACKBONES`; an unknown one raises `KeyError`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BACKBONES[backbone](classes)
