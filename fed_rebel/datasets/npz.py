"""A user's own data as one `.npz` file."""

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fed_rebel.datasets.images import SIDE, Dataset, Split, load_once

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(path: Path, data_dir: Path) -> Dataset:
    """The data set in an `.npz`, converted once for each path, size and time of change.

    It holds `x_train`, `x_test` (uint8 [N, H, W, 3], or [N, H, W] in grey; stretched to 32 x 32), `y_train`,
    `y_test` (integers [N] from 0, every class with one training image at least) and, if wanted, `classes`
    (their names, text). Training images may be mirrored (`flip`).

    Raises:
        ValueError: the file cannot be read or does not hold that.
    """
    return load_once(data_dir, key(path), lambda: _resized(read(path)))


def key(path: Path) -> str:
    """The name under which the file is stored: changes with its path, its size and its time of change.

    Raises:
        ValueError: there is no such file, or no right to see it.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise ValueError(f"data.name: cannot read {path} ({error.strerror})") from None
    text = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}"
    return f"{path.stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read(path: Path) -> Dataset:
    """The checked arrays of the file, the images as they are: uint8 [N, H, W, 3] or [N, H, W].

    Raises:
        ValueError: the file cannot be read or does not hold what `load` says.
    """
    arrays = _arrays(path)
    for name in ("x_train", "x_test"):
        _check_images(path, name, arrays[name])
    for name in ("train", "test"):
        _check_labels(path, name, arrays[f"y_{name}"], len(arrays[f"x_{name}"]))

    classes, labels = _classes(path, arrays), arrays["y_train"]
    for name in ("y_train", "y_test"):
        wrong = arrays[name][(arrays[name] < 0) | (arrays[name] >= len(classes))]
        if len(wrong):
            raise ValueError(
                f"{path}: {name} holds the label {wrong[0]}; "
                f"labels of the {len(classes)} classes are 0 to {len(classes) - 1}"
            )
    counts = np.bincount(labels.astype(np.int64), minlength=len(classes))
    if not counts.all():
        missing = int(counts.argmin())
        raise ValueError(f"{path}: class {missing} ({classes[missing]}) has no training image; each needs one")
    train, test = (Split(arrays[f"x_{s}"], arrays[f"y_{s}"].astype(np.int64)) for s in ("train", "test"))
    return Dataset(path.stem, classes, train, test, flip=True)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (zipfile.BadZipFile, ValueError, EOFError):
        raise ValueError(f"{path}: is truncated or not an .npz; write it again with numpy.savez") from None
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: is one array, not an .npz; write x_train, y_train, x_test, y_test with numpy.savez")
    arrays = {}
    with file:
        missing = [name for name in _KEYS if name not in file]
        if missing:
            raise ValueError(f"{path}: lacks {', '.join(missing)}; an .npz needs {', '.join(_KEYS)}")
        for name in (*_KEYS, "classes"):
            if name not in file:
                continue
            try:
                arrays[name] = np.asarray(file[name])
            except MemoryError:
                raise ValueError(f"{path}: {name} does not fit into memory") from None
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                if "allow_pickle" in str(error):
                    raise ValueError(
                        f"{path}: {name} is an array of objects; store plain numbers (or text for classes)"
                    ) from None
                raise ValueError(f"{path}: {name} is truncated or damaged; write the file again") from None
    return arrays


def _check_images(path: Path, name: str, images: np.ndarray) -> None:
    colour, grey = images.ndim == 4 and images.shape[-1] == 3, images.ndim == 3
    if images.dtype != np.uint8 or not (colour or grey) or 0 in images.shape[1:]:
        raise ValueError(
            f"{path}: {name} is {images.dtype} {list(images.shape)}; it must be uint8 [N, H, W, 3] or [N, H, W]"
        )
    if not len(images):
        raise ValueError(f"{path}: {name} holds no image")


def _check_labels(path: Path, split: str, labels: np.ndarray, images: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: y_{split} is {labels.dtype} {list(labels.shape)}; integers [N] are needed")
    if len(labels) != images:
        raise ValueError(f"{path}: y_{split} has {len(labels)} labels for the {images} images of x_{split}")


def _classes(path: Path, arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    if "classes" in arrays:
        names = arrays["classes"]
        if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
            raise ValueError(
                f"{path}: classes is {names.dtype} {list(names.shape)}; distinct names, text [C], are needed"
            )
        classes = tuple(names.tolist())
    else:
        number = int(arrays["y_train"].max()) + 1
        if number > len(arrays["y_train"]):  # checked here so that a wild label does not make as many names
            raise ValueError(
                f"{path}: y_train holds the label {number - 1} but only {len(arrays['y_train'])} images; "
                "labels count the classes from 0, every class needs a training image"
            )
        classes = tuple(str(c) for c in range(number))
    return classes


def _resized(dataset: Dataset) -> Dataset:
    train, test = (Split(_resize(s.images), s.labels) for s in (dataset.train, dataset.test))
    return Dataset(dataset.name, dataset.classes, train, test, dataset.flip)


def _resize(images: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] or [N, H, W] to [N, 32, 32, 3]."""
    if images.shape[1:3] != (SIDE, SIDE):
        images = np.stack([np.asarray(Image.fromarray(i).resize((SIDE, SIDE))) for i in images])
    return images if images.ndim == 4 else np.repeat(images[..., None], 3, axis=-1)
