"""Images held once on a machine: uint8 arrays in memory-mapped files that every process shares."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import platformdirs

SIDE = 32
"""Height and width of every image, in pixels."""
IMAGE_SIZE = 3 * SIDE * SIDE
"""Bytes of an image as it is sent."""

_DESCRIPTION = "dataset.json"


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 [N, 32, 32, 3], memory-mapped once stored, and their labels, int64 [N], from 0."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation (above 0) of each colour channel, of pixels scaled to [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Form:
    """What images that lie in different places must have in common to train one model."""

    name: str
    classes: tuple[str, ...]
    normalisation: Normalisation
    flip: bool

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Form":
        """What `to_json` gave."""
        told = json.loads(text)
        mean, std = (tuple(told["normalisation"][which]) for which in ("mean", "std"))
        return cls(told["name"], tuple(told["classes"]), Normalisation(mean, std), told["flip"])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set; `flip` says whether an image mirrored left to right still bears its label."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    flip: bool

    @property
    def form(self) -> Form:
        """Its own."""
        return Form(self.name, self.classes, self.normalisation, self.flip)

    def without_flip(self) -> "Dataset":
        """The same images, none to be mirrored."""
        other = replace(self, flip=False)
        vars(other).update(fingerprint=self.fingerprint, normalisation=self.normalisation)
        return other

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the class names and of both splits' labels and pixels."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for split in (self.train, self.test):
            digest.update(repr(split.images.shape).encode())
            digest.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
            digest.update(np.ascontiguousarray(split.images).data)
        return digest.hexdigest()

    @cached_property
    def normalisation(self) -> Normalisation:
        """Of the training images. A channel of one single value gets one grey level as its deviation."""
        levels = np.arange(256) / 255
        # A channel's mean and deviation follow from its 256 counts: no copy of the images in floating point.
        shares = np.stack([np.bincount(c.ravel(), minlength=256) for c in np.moveaxis(self.train.images, -1, 0)])
        shares = shares / shares.sum(1, keepdims=True)
        mean = shares @ levels
        std = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(1)).clip(1 / 255)
        return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))


def load_once(data_dir: Path, key: str, make: Callable[[], Dataset]) -> Dataset:
    """The data set stored under `key`; made, and stored, if it is not there yet.

    It lies in `<data_dir>/mapped/<key>` or, where that cannot be written, in the platform's cache directory.
    """
    folder = data_dir / "mapped" / key
    if not folder.is_dir():
        if not _writable(folder.parent):
            folder = Path(platformdirs.user_cache_dir("fed-rebel")) / "mapped" / key
        if not folder.is_dir():
            store(folder, make())
    return open_stored(folder)


def store(folder: Path, dataset: Dataset) -> None:
    """Write the data set as `folder`: all of it at once, or nothing.

    Where several processes store the same folder at the same time, one of them wins and all are content.

    Raises:
        ValueError: there is no space left, or the place cannot be written.
    """
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        part.chmod(0o755)  # mkdtemp's 0o700 would lock out the other users of a shared data directory
        for name, split in (("train", dataset.train), ("test", dataset.test)):
            _save(part / f"{name}_images.npy", split.images)
            _save(part / f"{name}_labels.npy", split.labels)
        description = {
            "name": dataset.name,
            "classes": dataset.classes,
            "flip": dataset.flip,
            "fingerprint": dataset.fingerprint,
            "mean": dataset.normalisation.mean,
            "std": dataset.normalisation.std,
        }
        (part / _DESCRIPTION).write_text(json.dumps(description))
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            size = (dataset.train.images.nbytes + dataset.test.images.nbytes) / 1e6
            raise ValueError(
                f"data.dir: no space left in {folder.parent}, {size:.0f} MB are needed for {dataset.name}; "
                "free some space or set data.dir to another disk"
            ) from None
        raise ValueError(
            f"data.dir: cannot write {dataset.name} to {folder.parent} ({error.strerror}); "
            "set data.dir to a directory you can write"
        ) from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


@lru_cache
def open_stored(folder: Path) -> Dataset:
    """The data set in `folder`, its images memory-mapped for reading; one object a process.

    Raises:
        ValueError: the folder does not hold what `store` wrote.
    """
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        train, test = (
            Split(
                np.load(folder / f"{name}_images.npy", mmap_mode="r", allow_pickle=False),
                np.load(folder / f"{name}_labels.npy", allow_pickle=False),
            )
            for name in ("train", "test")
        )
        dataset = Dataset(description["name"], tuple(description["classes"]), train, test, flip=description["flip"])
        # Both were computed when the images were stored; to read all pixels at each start would take seconds.
        vars(dataset).update(
            fingerprint=description["fingerprint"],
            normalisation=Normalisation(tuple(description["mean"]), tuple(description["std"])),
        )
        return dataset
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"data.dir: {folder} is damaged ({error}); delete that folder, it will be made again"
        ) from None


def _save(path: Path, array: np.ndarray) -> None:
    # As numpy.save, which would not say that the disk is full: its OSError has no errno.
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
