"""CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fed_rebel.datasets import npz
from fed_rebel.datasets.images import SIDE, Dataset, Split, load_once

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR100

CLASSES = 100


def load(data_dir: Path) -> Dataset:
    """CIFAR-100 from `cifar100.npz` in the data directory, else from the official files, fetched if need be.

    `cifar100.npz` holds `x_train`, `x_test` (uint8 [N, 32, 32, 3]), `y_train`, `y_test` (integers [N] in
    [0, 100)) and, if wanted, `classes` (100 names). torchvision checks the MD5 sums of the official files.

    Whichever file it comes from, its rows stand in one order, so that all have the same hold-out and the same shards.

    Raises:
        ValueError: the file is not CIFAR-100, or there are no files and no network.
    """
    path = data_dir / "cifar100.npz"
    if path.exists():
        return load_once(data_dir, f"{npz.key(path)}-in-order", lambda: _in_order(_from_npz(path)))
    return load_once(data_dir, "cifar100-official-in-order", lambda: _in_order(_official(data_dir)))


def _in_order(dataset: Dataset) -> Dataset:
    """By label, then by pixels."""

    def ordered(split: Split) -> Split:
        order = sorted(range(len(split)), key=lambda row: (split.labels[row], split.images[row].tobytes()))
        return Split(split.images[order], split.labels[order])

    return dataclasses.replace(dataset, train=ordered(dataset.train), test=ordered(dataset.test))


def _from_npz(path: Path) -> Dataset:
    dataset = npz.read(path)
    for name, split in (("x_train", dataset.train), ("x_test", dataset.test)):
        if split.images.shape[1:] != (SIDE, SIDE, 3):
            raise ValueError(f"{path}: {name} is {list(split.images.shape)}; CIFAR-100 is [N, 32, 32, 3]")
    if len(dataset.classes) != CLASSES:
        raise ValueError(f"{path}: has {len(dataset.classes)} classes; CIFAR-100 has {CLASSES}")
    return dataset


def _official(data_dir: Path) -> Dataset:
    from torchvision.datasets import CIFAR100  # seconds to import, and needed once on a machine

    try:
        train, test = (CIFAR100(str(data_dir), train=part, download=True) for part in (True, False))
    except (OSError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"data.dir: {data_dir} has no cifar100.npz and the official files could not be fetched "
            f"({' '.join(str(error).split())}); put cifar100.npz or cifar-100-python.tar.gz there, "
            'or set data.name to "glyphs100", which needs no file'
        ) from None
    return Dataset("cifar100", tuple(train.classes), _split(train), _split(test), flip=True)


def _split(files: "CIFAR100") -> Split:
    return Split(files.data, np.asarray(files.targets, dtype=np.int64))
