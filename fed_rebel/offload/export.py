"""Both halves of a client's model as files that need neither this project nor torch: ONNX, and torch.export's .pt2."""

import importlib.util
import io
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fed_rebel import files
from fed_rebel.datasets import Normalisation
from fed_rebel.early import answer
from fed_rebel.early.gmc_diagonal import GMCDiagonal
from fed_rebel.early.linear import Linear
from fed_rebel.offload.parts import DevicePart, ServerPart, device_part, server_part
from fed_rebel.settings import SettingsError

OPSET = 18
EXPORTABLE = (GMCDiagonal, Linear)
"""Early classifiers of plain operators; k-NN and k-means are FAISS, full mixtures hundreds of megabytes."""
MOST_QUERIES = 4096
"""Images or codes in a batch of an exported model at most."""


@dataclass(frozen=True)
class Exported:
    """A file that was written, and its bytes."""

    path: Path
    size: int


class DeviceModel(nn.Module):
    """Head1 and early classifier: images, uint8 [B, 32, 32, 3], to label, confidence, score and code."""

    def __init__(self, part: DevicePart) -> None:
        """In float32 on the CPU."""
        super().__init__()
        # Not `code`, a name that traced modules have taken.
        self.head1, self.eight_bits, self.early = part.head1.cpu(), part.code.cpu(), part.early.cpu()
        self.scale, self.shift = _affine(part.normalisation)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """label int64 [B], confidence float32 [B] in [0, 1], score float32 [B], levels uint8 [B, 3, 17, 17]."""
        pixels = images.permute(0, 3, 1, 2).float() * self.scale + self.shift
        code = self.head1(pixels).mu
        own = answer(self.early.class_scores(code.flatten(1)))
        return own.label, own.confidence, own.score, self.eight_bits.encode(code)


class ServerModel(nn.Module):
    """Head2 and Tail: levels, uint8 [B, 3, 17, 17], and the code's range, to label, confidence and logits."""

    def __init__(self, part: ServerPart) -> None:
        """In float32 on the CPU."""
        super().__init__()
        self.network = part.network.cpu()

    def forward(self, levels: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """label int64 [B], confidence float32 [B] in [0, 1], logits float32 [B, C]; low, high: float32 [3]."""
        low, high = low[:, None, None], high[:, None, None]
        logits: Tensor = self.network(low + (high - low) / 255 * levels.float())
        confidence, label = logits.softmax(1).max(1)
        return label, confidence, logits


def export(run: Path, client: int, out: Path) -> list[Exported]:
    """Write `device.onnx`, `device.pt2`, `server.onnx`, `server.pt2` and `model.json`, what one needs beside them.

    Raises `SettingsError` where ONNX is not installed, or the client's early classifier has no ONNX form.
    """
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise SettingsError(f"export: {missing[0]} is not installed; pip install 'fed-rebel[export]'")
    device, server = device_part(run, client), server_part(run)
    written = [*export_device(device, out), *export_server(server, out)]
    about = json.dumps(_about(device), indent=2, allow_nan=False).encode()
    files.replace(out / "model.json", about)
    return [*written, Exported(out / "model.json", len(about))]


def export_device(part: DevicePart, out: Path) -> list[Exported]:
    """`device.onnx` and `device.pt2`. Raises `SettingsError` for an early classifier that is no plain operators."""
    if not isinstance(part.early, EXPORTABLE):
        raise SettingsError(
            f"early classifier {type(part.early).__name__}: has no form that can be exported; allowed: gmc-diag, linear"
        )
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    outputs = ("label", "confidence", "score", "levels")
    return _write(DeviceModel(part), {"images": images}, outputs, out / "device")


def export_server(part: ServerPart, out: Path) -> list[Exported]:
    """`server.onnx` and `server.pt2`."""
    levels = torch.zeros(2, *part.shape, dtype=torch.uint8)
    inputs = {"levels": levels, "low": torch.zeros(3), "high": torch.ones(3)}
    return _write(ServerModel(part), inputs, ("label", "confidence", "logits"), out / "server")


def _write(module: nn.Module, inputs: Mapping[str, Tensor], outputs: tuple[str, ...], stem: Path) -> list[Exported]:
    queries = torch.export.Dim("queries", min=1, max=MOST_QUERIES)
    shapes = {name: {0: queries} if tensor.ndim > 1 else None for name, tensor in inputs.items()}
    module = module.eval().requires_grad_(False)
    pt2 = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
        graph = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        torch.export.save(program, pt2)
    assert graph is not None  # with dynamo it never is
    contents = {".onnx": graph.model_proto.SerializeToString(), ".pt2": pt2.getvalue()}
    for ending, content in contents.items():
        files.replace(stem.with_suffix(ending), content)
    return [Exported(stem.with_suffix(ending), len(content)) for ending, content in contents.items()]


def _about(part: DevicePart) -> dict[str, Any]:
    """What device and server need beside their networks."""
    return {
        "client": part.client,
        "classes": part.classes,
        "server_model": part.fingerprint.hex(),
        "threshold": _in_json(part.thresholds.common),
        "thresholds_by_label": {label: _in_json(threshold) for label, threshold in part.thresholds.own.items()},
        "code_low": part.code.low.tolist(),
        "code_high": part.code.high.tolist(),
        "server_answers": part.server_answers,
        "log_label_shares": part.log_shares.tolist(),
        "stack": {"remote": part.stack.remote, "local": part.stack.local, "prior": part.stack.prior},
    }


def _in_json(threshold: float) -> float | str:
    return threshold if math.isfinite(threshold) else str(threshold)  # JSON has no infinity


def _affine(normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    """(pixel / 255 - mean) / std as one product and one sum: [3, 1, 1] each."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (normalisation.mean, normalisation.std))
    return 1 / (255 * std), -mean / std
