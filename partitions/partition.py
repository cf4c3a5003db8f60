"""Who holds which images: the result of a deal, and its file."""

import hashlib
import io
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROLES = ("train", "val", "test")
_ARRAYS = (
    "label_counts",
    "hold_out",
    "clients",
    *(f"{role}{part}" for role in _ROLES for part in ("", "_offsets")),
)
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    OverflowError,
)


@dataclass(frozen=True, eq=False)
class Shard:
    """One client's data, as ascending int64 indices; none of the three is empty."""

    client: int  # from 0
    train: NDArray[np.int64]  # into the training set; disjoint from other clients' and from the hold-out
    val: NDArray[np.int64]  # into the training set, from the hold-out; may be shared with other clients
    test: NDArray[np.int64]  # into the test set; may be shared with other clients


@dataclass(frozen=True, eq=False)
class Partition:
    """All clients' shards together, in the order of the clients; none where nothing is dealt."""

    shards: tuple[Shard, ...]
    hold_out: NDArray[np.int64]  # into the training set: the images that no client trains on
    label_counts: NDArray[np.int64]  # (clients, C) training images of each class, a row a client

    @property
    def classes(self) -> int:
        """Classes of the data set, C."""
        return int(self.label_counts.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all indices, who holds them, and the labels they bear."""
        return _fingerprint(self._arrays())

    def save(self, path: Path) -> None:
        """Write an npz of int64 arrays and offsets, atomically; the same partition, the same bytes.

        Client `clients[i]` trains on `train[train_offsets[i] : train_offsets[i + 1]]`, and so on.
        """
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        members = {**self._arrays(), "fingerprint": np.array(self.fingerprint)}
        try:
            with zipfile.ZipFile(beside, "w") as archive:
                for name, array in members.items():
                    buffer = io.BytesIO()
                    np.lib.format.write_array(buffer, array, allow_pickle=False)
                    # A member named by a ZipInfo is dated 1980, not today, so the bytes do not change.
                    archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> "Partition":
        """Read what `save` wrote.

        Raises ValueError for a damaged file, or one whose fingerprint is not that of its arrays, and OSError
        for one that cannot be read.
        """
        content = io.BytesIO(Path(path).read_bytes())
        try:
            with zipfile.ZipFile(content) as archive:
                # A member's checksum is tested before its header is believed.
                arrays = {name: _read(archive, name) for name in _ARRAYS}
                stored = str(_read(archive, "fingerprint"))
            if stored != _fingerprint(arrays):
                raise ValueError("its fingerprint is not that of its arrays")
            clients = arrays["clients"].tolist()
            parts = [np.split(arrays[role], arrays[f"{role}_offsets"][1:])[: len(clients)] for role in _ROLES]
            shards = tuple(Shard(*fields) for fields in zip(clients, *parts, strict=True))
            return cls(shards, arrays["hold_out"], arrays["label_counts"])
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not a partition, or damaged ({reason}); must be as it was saved") from error

    def _arrays(self) -> dict[str, NDArray[np.int64]]:
        arrays = {
            "label_counts": self.label_counts,
            "hold_out": self.hold_out,
            "clients": np.array([shard.client for shard in self.shards]),
        }
        for role in _ROLES:
            parts = [getattr(shard, role) for shard in self.shards]
            arrays[role] = np.concatenate([np.empty(0, dtype=np.int64), *parts])
            arrays[f"{role}_offsets"] = np.cumsum([0, *map(len, parts)])
        return {name: array.astype("<i8", copy=False) for name, array in arrays.items()}


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    return array


def _fingerprint(arrays: dict[str, NDArray[np.int64]]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        # Name and length keep two arrays from running into each other.
        digest.update(f"{name} {array.size}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
