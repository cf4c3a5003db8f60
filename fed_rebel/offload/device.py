"""The device: labels images itself where it is sure, and asks the server about the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from fed_rebel.datasets import augment
from fed_rebel.datasets.folder import picture
from fed_rebel.early import Answer, answer
from fed_rebel.model.code import sample
from fed_rebel.offload.connection import Connection, Unanswered
from fed_rebel.offload.credentials import DeviceCredentials
from fed_rebel.offload.parts import DevicePart
from fed_rebel.offload.wire import Hello, Labels, Logits, Wanted

WhenOffline = Literal["local", "fail"]

BATCH = 64
"""Images that are looked at, and whose codes are sent, together."""


@dataclass(frozen=True, eq=False)
class Look:
    """What the device makes of B images alone."""

    local: Tensor
    """[B, C]: the early classifier's log-joint, up to a constant a row."""
    answer: Answer
    levels: NDArray[np.uint8]
    """[B, 867]: the codes at eight bits."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labels of B images, and who gave them."""

    label: NDArray[np.int64]
    """[B]"""
    confidence: NDArray[np.float32]
    """[B] in [0, 1]: the label's probability by who gave it."""
    sent: NDArray[np.bool_]
    """[B]: not sure enough to answer alone."""
    offline: str | None
    """Why the server did not label those that were sent, so that the device did; None where it labelled them."""

    def by(self, image: int) -> str:
        """Who labelled an image: `device`, `server`, or `device, server ...` with what was wrong with the server."""
        if not self.sent[image]:
            return "device"
        return "server" if self.offline is None else f"device, {self.offline}"


class Device:
    """A client's device, connected to a server."""

    def __init__(
        self,
        part: DevicePart,
        server: str,
        credentials: DeviceCredentials,
        *,
        deadline: float = 5.0,
        when_offline: WhenOffline = "local",
        tell_prior: bool = True,
    ) -> None:
        """`server` is host:port, `deadline` in seconds a batch.

        Where the run's answers are corrected by the label shares (`exits.server_prior`), the server is told them at
        connect; with `tell_prior=False` it is asked for logits, which the device corrects. Stacking always does that.
        """
        self._part, self._when_offline = part, when_offline
        self._connection = Connection(server, credentials, hello(part, tell_prior), len(part.classes), deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def label(self, images: NDArray[np.uint8]) -> Iterator[Labelled]:
        """Label images, uint8 [N, 32, 32, 3]: a record a batch of 64.

        Raises `RuntimeError` where the server gives no answer and the device may not, or has nothing to, answer itself,
        and `ValueError` where the server refuses the token.
        """
        for start in range(0, len(images), BATCH):
            yield self._label(images[start : start + BATCH])

    def _label(self, images: NDArray[np.uint8]) -> Labelled:
        seen = look(self._part, images)
        label, confidence = seen.answer.label.numpy().copy(), seen.answer.confidence.numpy().copy()
        sent = ~self._part.thresholds.answered(label, seen.answer.score.numpy())
        offline = None
        if sent.any():
            try:
                remote = self._connection.ask(seen.levels[sent])
                label[sent], confidence[sent] = self._read(remote, seen.local[torch.from_numpy(sent)])
            except Unanswered as reason:
                offline = str(reason)
                if self._when_offline == "fail":
                    raise RuntimeError(f"{offline}; --when-offline local lets the device answer") from None
                if not self._part.early.answers:
                    raise RuntimeError(f"{offline}, and this device has no early classifier to answer with") from None
        return Labelled(label, confidence, sent, offline)

    def _read(self, remote: Labels | Logits, local: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Labels and confidences [B] from the server's answers, as the run takes them."""
        if isinstance(remote, Labels):
            return remote.label, remote.confidence
        log_shares = self._part.log_shares.numpy()
        if self._part.server_answers == "stacked":
            scores = self._part.stack.scores(remote.logits, local.numpy(), log_shares)
        else:
            scores = remote.logits + log_shares
        return scores.argmax(1), softmax(scores, axis=1).max(1).astype(np.float32)


def hello(part: DevicePart, tell_prior: bool) -> Hello:
    """How a device that holds this part introduces itself."""
    told = part.server_answers == "prior" and tell_prior
    wanted: Wanted = "labels" if told or part.server_answers == "plain" else "logits"
    low, high = part.code.low.cpu().numpy(), part.code.high.cpu().numpy()
    return Hello(part.fingerprint, wanted, low, high, part.log_shares.numpy() if told else None)


def look(part: DevicePart, images: NDArray[np.uint8]) -> Look:
    """What the device makes of images, uint8 [B, 32, 32, 3], alone: as `training.predict.observe`."""
    pixels = augment.batch(images, part.normalisation).to(part.compute.device)
    with torch.inference_mode():
        with part.compute.autocast():
            posterior = part.head1(pixels)
        code = posterior.mu
        if part.noise is not None and part.early.answers:
            code = sample(posterior, part.noise)
        local = part.early.class_scores(code.flatten(1)).cpu()
        levels = part.code.encode(code).flatten(1).cpu().numpy()
    return Look(local, answer(local) if part.early.answers else Answer.none(len(images)), levels)


def read_images(files: list[Path]) -> NDArray[np.uint8]:
    """Pictures as uint8 [N, 32, 32, 3]. Raises `ValueError` naming one that cannot be read."""
    return np.stack([np.asarray(picture(file)) for file in files])
