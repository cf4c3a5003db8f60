"""What each variant answers: the one table that the figures and tables of the study are drawn from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from fed_rebel import files
from fed_rebel.datasets import Split
from fed_rebel.model.rebel import Rebel
from fed_rebel.settings import Settings
from fed_rebel.study.variants import CLASSIFIERS, Variant, variants
from fed_rebel.training.predict import labels_of, observe
from fed_rebel.training.pretrained import warm_start
from fed_rebel.training.setup import Setup
from fed_rebel.training.warm_start import EpochDone, build_model, fit_early
from partitions import hold_out


def answers_of(variant: Variant, study: Settings, setup: Setup, folder: Path, epoch_done: EpochDone) -> pd.DataFrame:
    """A row an image of the hold-out (`val`) and of the test set: what `observe` found, `split`, `variant`, `seed`.

    Trained and asked once; after that read from `folder`.
    """

    def ask() -> pd.DataFrame:
        model = trained(variant, study, setup, epoch_done)
        parts = [
            observe(model, setup.dataset, split, indices, setup.compute).rows().assign(split=name)
            for name, (split, indices) in evaluated(setup).items()
        ]
        return pd.concat(parts, ignore_index=True).assign(variant=variant.name, seed=variant.seed)

    return kept(folder / f"{variant.name}-seed{variant.seed}.parquet", ask)


def all_answers(folder: Path) -> pd.DataFrame:
    """Those of every variant that was asked, in earlier runs of the study too, by variant."""
    found = {path.stem: path for path in folder.glob("*-seed*.parquet")}
    seeds = sorted({int(name.rsplit("-seed", 1)[1]) for name in found})
    names = dict.fromkeys(variant.name for variant in variants(CLASSIFIERS, seeds))
    paths = [found[f"{name}-seed{seed}"] for name in names for seed in seeds if f"{name}-seed{seed}" in found]
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def base_answers(setup: Setup, folder: Path) -> pd.DataFrame:
    """The base model alone, to which whole images are sent: `image, label, remote_label, split`."""

    def ask() -> pd.DataFrame:
        parts = []
        for name, (split, indices) in evaluated(setup).items():
            said = labels_of(setup.base, setup.dataset, split, indices, setup.compute)
            row = {"image": indices, "label": split.labels[indices], "remote_label": said}
            parts.append(pd.DataFrame(row).assign(split=name))
        return pd.concat(parts, ignore_index=True)

    return kept(folder / "base.parquet", ask)


def trained(variant: Variant, study: Settings, setup: Setup, epoch_done: EpochDone) -> Rebel:
    """The variant's model, in evaluation mode; trained, or found in the cache of pooled warm starts."""
    settings = variant.settings(study)
    start = warm_start(settings, setup.dataset, setup.base, setup.compute, epoch_done)
    model = build_model(
        settings, setup.base, len(setup.dataset.classes), start.early_seed, setup.compute, start.tensors
    )
    model.eval()
    fit_early(model, setup.dataset, pooled(setup), setup.compute)
    return model


def pooled(setup: Setup) -> np.ndarray:
    """Training images: all but the hold-out."""
    return hold_out(setup.dataset.train.labels, len(setup.dataset.classes))[0]


def evaluated(setup: Setup) -> dict[str, tuple[Split, np.ndarray]]:
    """Validation images (the hold-out) and test images, each as a split and the indices into it."""
    _, held = hold_out(setup.dataset.train.labels, len(setup.dataset.classes))
    return {"val": (setup.dataset.train, held), "test": (setup.dataset.test, np.arange(len(setup.dataset.test)))}


def kept(path: Path, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table at `path`; made, and written there, if it is not there yet."""
    if not path.exists():
        files.replace(path, make().to_parquet(index=False))
    return pd.read_parquet(path)
