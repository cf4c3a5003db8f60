"""A user's own data as a folder of pictures: `train/<class>/*`, `test/<class>/*`."""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fed_rebel.datasets.images import SIDE, Dataset, Split, load_once


def load(path: Path, data_dir: Path) -> Dataset:
    """The data set in the folder, converted once for each state of its files (names, sizes, times of change).

    The classes are the folders in `train`, in alphabetical order, each with at least one picture: of any size
    and any format of 8 bits a channel that Pillow reads; stretched to 32 x 32 RGB. Hidden files are ignored.
    Training images may be mirrored (`flip`).

    Raises:
        ValueError: a part is missing or empty, or a file is not a picture.
    """
    try:
        key = _key(path)
    except OSError as error:
        raise ValueError(f"data.name: cannot read {error.filename} ({error.strerror})") from None
    return load_once(data_dir, key, lambda: _read(path))


def _key(path: Path) -> str:
    digest = hashlib.sha256(str(path.resolve()).encode())
    for split in ("train", "test"):
        for name in _visible(path / split):
            for file in _visible(path / split / name):
                state = os.stat(path / split / name / file)
                digest.update(f"\0{split}/{name}/{file}\0{state.st_size}\0{state.st_mtime_ns}".encode())
    return f"{path.resolve().name}-{digest.hexdigest()[:16]}"


def _read(path: Path) -> Dataset:
    classes = tuple(_visible(path / "train"))
    if not classes:
        raise ValueError(f"{path / 'train'}: holds no class folder; put the pictures of each class into one")
    for name in _visible(path / "test"):
        if name not in classes:
            raise ValueError(
                f"{path / 'test' / name}: class {name} has no training image; fill {path / 'train' / name}"
            )
    for name in classes:
        if not _visible(path / "train" / name):
            raise ValueError(f"{path / 'train' / name}: class {name} has no training image; add one at least")
    train, test = (_split(path / split, classes) for split in ("train", "test"))
    if not len(test):
        raise ValueError(f"{path / 'test'}: holds no picture; {path / 'test' / '<class>'}/* is needed")
    return Dataset(path.resolve().name, classes, train, test, flip=True)


def _split(path: Path, classes: tuple[str, ...]) -> Split:
    files = [
        (path / name / file, label)
        for label, name in enumerate(classes)
        if (path / name).is_dir()
        for file in _visible(path / name)
    ]
    images = np.empty((len(files), SIDE, SIDE, 3), dtype=np.uint8)
    for image, (file, _) in zip(images, files, strict=True):
        image[:] = np.asarray(picture(file))
    return Split(images, np.array([label for _, label in files], dtype=np.int64))


def picture(file: Path) -> Image.Image:
    """A picture, 32 x 32 RGB. Raises `ValueError` naming a file that is none, or that is not there."""
    try:
        with Image.open(file) as picture:
            if picture.mode.startswith(("I", "F")):  # Pillow would cut off what is above 255
                raise ValueError("more than 8 bits a channel")
            return ImageOps.exif_transpose(picture).convert("RGB").resize((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: is not a readable picture ({error}); mend it or take it away") from None


def _visible(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if not name.startswith("."))
