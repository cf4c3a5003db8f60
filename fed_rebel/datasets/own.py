"""A client's own images, for a federation in which nobody deals any."""

from pathlib import Path

import numpy as np

from fed_rebel.datasets import of_path
from fed_rebel.datasets.images import Dataset, Form, Split


def load(path: Path, form: Form, folder: Path) -> Dataset:
    """The data set in the `.npz` or the folder of pictures, in the form of everybody's; kept mapped in `folder`.

    Classes are known by their names; the client need not have all. Pixels are normalised as everybody's.

    Raises:
        ValueError: data that are missing or wrong, or a class that the others do not know.
    """
    found = of_path(path, folder)
    if unknown := [name for name in found.classes if name not in form.classes]:
        known = ", ".join(form.classes[:5]) + (", ..." if len(form.classes) > 5 else "")
        raise ValueError(f"{path}: class {unknown[0]} is none of {form.name}'s {len(form.classes)} ({known})")
    place = np.array([form.classes.index(name) for name in found.classes])
    train, test = (Split(split.images, place[split.labels]) for split in (found.train, found.test))
    dataset = Dataset(form.name, form.classes, train, test, form.flip)
    vars(dataset).update(normalisation=form.normalisation)
    return dataset
