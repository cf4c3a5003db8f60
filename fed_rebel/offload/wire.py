"""What goes over the connection: five messages of plain bytes, little-endian, each beginning with `RBL` and a version.

    Hello    device to server, once   model, what is wanted, the code's range, the label prior if it is told
    Welcome  server to device, once   session, classes
    Queries  device to server         47 bytes, then 867 a code
    Labels   server to device         13 bytes, then 6 a query: label, confidence
    Logits   server to device         13 bytes, then 4 a class and query

`docs/offload.md` has the offsets. Nothing is read that was not checked: whatever the bytes, a decoder gives a message
or raises `WireError`, and takes no more memory than the bytes themselves.
"""

import struct
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Wanted = Literal["labels", "logits"]

VERSION = 1
MODEL_SIZE = 32
"""Bytes of a model's fingerprint, a SHA-256."""
SESSION_SIZE = 8
CHANNELS = 3
MOST_CODES = 256
"""In a message."""

_PREFIX = struct.Struct("<3sBB")
_HELLO = struct.Struct(f"<B{MODEL_SIZE}s{CHANNELS}f{CHANNELS}fH")
_WELCOME = struct.Struct(f"<{SESSION_SIZE}sH")
_QUERIES = struct.Struct(f"<{MODEL_SIZE}s{SESSION_SIZE}sH")
_ANSWERS = struct.Struct("<HfH")
_MAGIC = b"RBL"
_HELLO_KIND, _WELCOME_KIND, _QUERIES_KIND, _LABELS_KIND, _LOGITS_KIND = range(1, 6)
_WANTED: tuple[Wanted, ...] = ("labels", "logits")
_LABEL = np.dtype([("label", "<u2"), ("confidence", "<f4")])

QUERIES_HEADER = _PREFIX.size + _QUERIES.size
"""Bytes of a batch of queries beside its codes."""


class WireError(ValueError):
    """These bytes are no message that is allowed here; one line says why."""


class WrongVersion(WireError):
    """A message of another version of this format."""


@dataclass(frozen=True, eq=False)
class Hello:
    """How a device introduces itself. Raises `WireError` for values that are not allowed."""

    model: bytes
    """Fingerprint of the model that it expects, 32 bytes."""
    wanted: Wanted
    """Labels with confidences, or logits, with which the device does what it likes."""
    low: NDArray[np.float32]
    """[3], finite: the code of level 0, a channel."""
    high: NDArray[np.float32]
    """[3], finite, above `low`: the code of level 255."""
    log_prior: NDArray[np.float32] | None = None
    """[C], finite: log of the device's label shares, which the server then adds to its logits; None: not told."""

    def __post_init__(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            width = self.high - self.low
        if not (np.isfinite(self.low).all() and np.isfinite(width).all() and (width > 0).all()):
            raise WireError("code range: low and high must be finite, and high above low")
        if self.log_prior is not None and not np.isfinite(self.log_prior).all():
            raise WireError("label prior: must be finite")

    def encode(self) -> bytes:
        """Its bytes: 64, and 4 a class where the prior is told."""
        prior = b"" if self.log_prior is None else self.log_prior.astype("<f4").tobytes()
        wanted = _WANTED.index(self.wanted)
        fields = _HELLO.pack(wanted, self.model, *self.low.tolist(), *self.high.tolist(), len(prior) // 4)
        return _prefix(_HELLO_KIND) + fields + prior

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """What `encode` gave."""
        fields, body = _split(message, _HELLO_KIND, _HELLO)
        wanted, model, *ends, classes = fields
        if wanted >= len(_WANTED):
            raise WireError(f"wanted = {wanted}: must be 0 (labels) or 1 (logits)")
        _check_length(body, 4 * classes)
        low, high = np.array(ends, np.float32).reshape(2, CHANNELS)
        return cls(model, _WANTED[wanted], low, high, np.frombuffer(body, "<f4") if classes else None)


@dataclass(frozen=True)
class Welcome:
    """The server's answer to `Hello`."""

    session: bytes
    """8 bytes that later messages bear: the server knows the device's range and prior by them."""
    classes: int
    """C, from 1 to 65,535."""

    def encode(self) -> bytes:
        """Its 15 bytes."""
        return _prefix(_WELCOME_KIND) + _WELCOME.pack(self.session, self.classes)

    @classmethod
    def decode(cls, message: bytes) -> Self:
        """What `encode` gave."""
        (session, classes), body = _split(message, _WELCOME_KIND, _WELCOME)
        _check_length(body, 0)
        if not classes:
            raise WireError("classes = 0: must be at least 1")
        return cls(session, classes)


@dataclass(frozen=True, eq=False)
class Queries:
    """A batch of codes."""

    model: bytes
    """Fingerprint of the model that is asked, 32 bytes."""
    session: bytes
    levels: NDArray[np.uint8]
    """[B, size], B from 1 to 256: the codes at eight bits."""

    def encode(self) -> bytes:
        """Its bytes: 47, and `size` a code."""
        fields = _QUERIES.pack(self.model, self.session, len(self.levels))
        return _prefix(_QUERIES_KIND) + fields + self.levels.tobytes()

    @classmethod
    def decode(cls, message: bytes, size: int) -> Self:
        """What `encode` gave, where the codes have `size` bytes."""
        (model, session, count), body = _split(message, _QUERIES_KIND, _QUERIES)
        if not 0 < count <= MOST_CODES:
            raise WireError(f"{count} codes: must be from 1 to {MOST_CODES} in a batch")
        _check_length(body, count * size)
        return cls(model, session, np.frombuffer(body, np.uint8).reshape(count, size))


@dataclass(frozen=True, eq=False)
class Labels:
    """The server's labels of a batch."""

    label: NDArray[np.int64]
    """[B], below C."""
    confidence: NDArray[np.float32]
    """[B] in [0, 1]: the label's probability."""
    seconds: float
    """How long the batch was with the server, waiting included."""

    def encode(self) -> bytes:
        """Its bytes: 13, and 6 a query."""
        rows = np.empty(len(self.label), _LABEL)
        rows["label"], rows["confidence"] = self.label, self.confidence
        return _answers(_LABELS_KIND, len(rows), self.seconds, 1) + rows.tobytes()

    @classmethod
    def decode(cls, message: bytes, count: int, classes: int) -> Self:
        """What `encode` gave, for `count` queries of so many classes."""
        seconds, body = _split_answers(message, _LABELS_KIND, count, 1)
        _check_length(body, count * _LABEL.itemsize)
        rows = np.frombuffer(body, _LABEL)
        label, confidence = rows["label"].astype(np.int64), rows["confidence"].astype(np.float32)
        if not ((label < classes).all() and (confidence >= 0).all() and (confidence <= 1).all()):
            raise WireError(f"labels: must be below {classes}, confidences in [0, 1]")
        return cls(label, confidence, seconds)


@dataclass(frozen=True, eq=False)
class Logits:
    """The server's logits of a batch."""

    logits: NDArray[np.float32]
    """[B, C]"""
    seconds: float
    """How long the batch was with the server, waiting included."""

    def encode(self) -> bytes:
        """Its bytes: 13, and 4 a class and query."""
        count, classes = self.logits.shape
        return _answers(_LOGITS_KIND, count, self.seconds, classes) + self.logits.astype("<f4").tobytes()

    @classmethod
    def decode(cls, message: bytes, count: int, classes: int) -> Self:
        """What `encode` gave, for `count` queries of so many classes."""
        seconds, body = _split_answers(message, _LOGITS_KIND, count, classes)
        _check_length(body, 4 * count * classes)
        logits = np.frombuffer(body, "<f4").reshape(count, classes)
        if not np.isfinite(logits).all():
            raise WireError("logits: must be finite")
        return cls(logits, seconds)


def _prefix(kind: int) -> bytes:
    return _PREFIX.pack(_MAGIC, VERSION, kind)


def _answers(kind: int, count: int, seconds: float, columns: int) -> bytes:
    return _prefix(kind) + _ANSWERS.pack(count, seconds, columns)


def _split_answers(message: bytes, kind: int, count: int, columns: int) -> tuple[float, memoryview]:
    (answered, seconds, found), body = _split(message, kind, _ANSWERS)
    if (answered, found) != (count, columns):
        raise WireError(f"answers: {answered} x {found}, asked for {count} x {columns}")
    if not 0 <= seconds < np.inf:
        raise WireError(f"seconds = {seconds}: must be 0 or more")
    return seconds, body


def _split(message: bytes, kind: int, fields: struct.Struct) -> tuple[tuple, memoryview]:  # type: ignore[type-arg]
    """A message of that kind: its fixed fields, and what comes after them."""
    if len(message) < _PREFIX.size:
        raise WireError(f"{len(message)} bytes: too short for a message")
    magic, version, found = _PREFIX.unpack_from(message)
    if magic != _MAGIC:
        raise WireError("does not begin with RBL")
    if version != VERSION:
        raise WrongVersion(f"version {version}: this is version {VERSION}")
    if found != kind:
        raise WireError(f"a message of kind {found}, expected {kind}")
    if len(message) < _PREFIX.size + fields.size:
        raise WireError(f"{len(message)} bytes: too short for its kind")
    return fields.unpack_from(message, _PREFIX.size), memoryview(message)[_PREFIX.size + fields.size :]


def _check_length(body: memoryview, expected: int) -> None:
    if len(body) != expected:
        raise WireError(f"{len(body)} bytes after its fields, expected {expected}")
