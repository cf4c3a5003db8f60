"""Weights on disk: safetensors files."""

import hashlib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from fed_rebel.files import replace

Tensors = dict[str, Tensor]


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write the tensors under their names. The same tensors give the same bytes, with one entry of metadata at most."""
    replace(path, to_bytes(tensors, metadata))


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """What `write` writes."""
    named = on_cpu(dict(sorted(tensors.items())))
    # Without tensors and with empty metadata safetensors writes a header that it cannot read.
    return save(named, dict(metadata or {}) if named or metadata else None)


def read(path: Path) -> Tensors:
    """The tensors of a file. Raises `ValueError` naming a file that is not there or is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give a safetensors file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); restore it or remove it") from None


def from_bytes(content: bytes) -> Tensors:
    """The tensors that `to_bytes` made bytes of."""
    return load(content)


def on_cpu(tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors, as they are kept and sent."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def metadata(path: Path) -> dict[str, str]:
    """What was written beside the tensors of a file that `read` can read."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of the tensors' names and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with a number that is not finite, None where there is none."""
    for name, tensor in tensors.items():
        # Numbers that are not all finite have no finite sum, which takes a tenth of the time of isfinite and its masks.
        if tensor.is_floating_point() and not isfinite(tensor.sum()) and not tensor.isfinite().all():
            return name
    return None


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors with `prefix.` before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """The tensors under `prefix.`, the prefix taken off."""
    start = prefix + "."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
