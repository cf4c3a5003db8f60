"""Where and how precisely tensors are computed."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from fed_rebel.settings import Engine, SettingsError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Compute:
    """A device and the precision of its convolutions and matrix products (weights stay float32)."""

    device: torch.device
    bfloat16: bool

    def autocast(self) -> AbstractContextManager[None]:
        """The context in which networks run forward."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def place(self, module: M) -> M:
        """The module on the device, convolutions in channels_last."""
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def choose_compute(engine: Engine) -> Compute:
    """CUDA where there is one, else the CPU; bfloat16 on a GPU or a CPU with AMX, else float32.

    On CPUs without AMX bfloat16 is slower than float32. Raises `SettingsError` for a GPU that is not there.
    """
    if engine.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("engine.device = 'cuda': torch sees no CUDA device; allowed: 'auto' or 'cpu'")
    use_cuda = engine.device != "cpu" and torch.cuda.is_available()
    fast_bfloat16 = use_cuda or bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    bfloat16 = engine.precision == "bfloat16" or (engine.precision == "auto" and fast_bfloat16)
    return Compute(torch.device("cuda" if use_cuda else "cpu"), bfloat16)
