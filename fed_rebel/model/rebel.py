"""ReBEL: the parts put together, and which of them is whose."""

from functools import cached_property

import torch
from torch import Tensor, nn

from fed_rebel import tensor_file
from fed_rebel.early import EarlyClassifier
from fed_rebel.model.code import EightBitCode, sample
from fed_rebel.model.heads import Head1, Head2, Posterior
from fed_rebel.model.resnet import Tail
from fed_rebel.model.twin import twin

PRIVATE = ("head1", "code", "early")
"""The device's parts: after the warm start they never leave a client."""
SHARED = ("head2", "tail")
"""The server's parts: federated."""


class Rebel(nn.Module):
    """Head1, the eight-bit code and the early classifier of a device; Head2 and Tail of the server."""

    def __init__(self, early: EarlyClassifier, tail: Tail, channels: int, seed: int) -> None:
        """Fresh Head1 and Head2 from the seed alone; `channels` are those of the features that Tail takes."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head1, self.head2 = Head1(), Head2(channels)
        self.code, self.early, self.tail = EightBitCode(), early, tail

    def draw(self, posterior: Posterior, generator: torch.Generator) -> Tensor:
        """A code of the posterior, [B, 3, 17, 17]: a sample of it, or its mean where there is no early classifier."""
        return sample(posterior, generator) if self.early.answers else posterior.mu

    def remote_logits(self, code: Tensor) -> Tensor:
        """What the server makes of codes [B, 3, 17, 17] that came through the eight bits: logits [B, C]."""
        logits: Tensor = self.tail(self.head2(code))
        return logits.float()

    def parts(self, *names: str) -> tensor_file.Tensors:
        """The tensors of some of the parts, each under `part.name`, detached."""
        chosen = {part: module.state_dict() for part, module in self.named_children() if part in names}
        return {f"{part}.{name}": tensor for part, state in chosen.items() for name, tensor in state.items()}

    def twin_with(self, tensors: tensor_file.Tensors) -> "Rebel":
        """A copy with tensors under `part.name` in the place of its own; they are copied too.

        Raises `ValueError` for an unknown name or a wrong shape.
        """
        shapes, fitted = self._shapes, {f"early.{name}" for name in self.early.fitted}
        for name, tensor in tensors.items():
            first = 1 if name in fitted else 0  # dimension that must be the same
            if name not in shapes or shapes[name][first:] != tensor.shape[first:]:
                expected = tuple(shapes[name]) if name in shapes else "no such tensor"
                raise ValueError(f"tensor {name} {tuple(tensor.shape)}: does not fit the model ({expected})")
        return twin(self, tensors)

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self.state_dict().items()}
