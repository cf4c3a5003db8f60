"""Images in memory: CIFAR-100, the embedded Glyphs-100, or a user's own."""

import difflib
import os
from pathlib import Path

import platformdirs

from fed_rebel.datasets import cifar100, folder, glyphs100, npz
from fed_rebel.datasets.images import Dataset, Form, Normalisation, Split

__all__ = ["NAMES", "Dataset", "Form", "Normalisation", "Split", "data_directory", "load", "of_path"]

NAMES = ("cifar100", "glyphs100")
"""The data sets known by name."""


def load(name: str, data_dir: str | Path | None = None) -> Dataset:
    """The data set of that name, or of the `.npz` file or folder at that path; see the module of each.

    Converted once on a machine and memory-mapped from then on; within a process it is one object.

    Raises:
        ValueError: an unknown name, or data that are missing or wrong; one line that says what to do.
    """
    directory = data_directory(data_dir)
    if name == "cifar100":
        return cifar100.load(directory)
    if name == "glyphs100":
        return glyphs100.load(directory)
    try:
        path = Path(name).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"data.name: {name!r} is no path ({error})") from None
    if exists:
        dataset = of_path(path, directory)
        if len(dataset.classes) < 2:
            raise ValueError(f"{path}: has {len(dataset.classes)} class; at least 2 are needed")
        return dataset
    if len(path.parts) > 1 or path.suffix:
        raise ValueError(f"data.name: there is no file or folder {path}")
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    suggestion = f"did you mean {near[0]}?" if near else "allowed are " + ", ".join(NAMES) + ", or a path"
    raise ValueError(f"data.name: {name!r} is neither a known data set nor a path; {suggestion}")


def of_path(path: Path, data_dir: Path) -> Dataset:
    """The data set of an `.npz` file or a folder of pictures, which may have one class alone.

    Raises:
        ValueError: it is not there, or holds something else.
    """
    return folder.load(path, data_dir) if path.is_dir() else npz.load(path, data_dir)


def data_directory(data_dir: str | Path | None = None) -> Path:
    """The argument, else `FED_REBEL_DATA`, else the platform's cache directory, which is made if need be.

    Raises:
        ValueError: it does not exist, is not a directory or cannot be read.
    """
    key, given = ("data.dir", data_dir) if data_dir else ("FED_REBEL_DATA", os.environ.get("FED_REBEL_DATA"))
    if given:
        path = Path(given).expanduser()
    else:
        key, path = "data.dir", Path(platformdirs.user_cache_dir("fed-rebel"))
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"data.dir: cannot make {path} ({error.strerror}); set data.dir") from None
    if not path.exists():
        raise ValueError(f"{key}: the directory {path} does not exist; make it or name another")
    if not path.is_dir():
        raise ValueError(f"{key}: {path} is not a directory")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ValueError(f"{key}: the directory {path} cannot be read; change its permissions or name another")
    return path.resolve()
