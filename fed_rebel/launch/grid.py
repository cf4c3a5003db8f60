"""The grid of a sweep: from `--set KEY=a,b,c` and a number of seeds to the settings of each run."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fed_rebel.report.grid import short_key, value_text
from fed_rebel.settings import SAME_RESULT, Scalar, Settings, SettingsError, load

_COMMAS = re.compile(r""",(?=(?:[^"']|"[^"]*"|'[^']*')*$)""")
"""Commas outside quotes."""


@dataclass(frozen=True)
class Grid:
    """A sweep's runs."""

    base: Settings
    """What all runs have in common; a swept key has the value of the file or preset."""
    values: dict[str, list[Scalar]]
    """Of each swept key, in the order of the settings, and of `seed`."""
    runs: dict[str, Settings]
    """By the name of its directory, such as "alpha=0.01-seed0"."""


def make_grid(
    source: Path | None, preset: str | None, changes: Iterable[str], seeds: int, swept: Collection[str] = ()
) -> Grid:
    """The grid over the settings of a file or preset: every combination of the values, times `seeds` seeds.

    `changes` are `KEY=VALUE`, where commas make a grid: `KEY=a,b,c`, or `KEY=[a,b,c]`, which may hold one value. A
    value with a comma in it is quoted. A key that is in `swept`, because the directory's sweep varies it, is varied
    here too. Seeds count from the setting `seed`. Raises `SettingsError` where a run's settings are not allowed.
    """
    fixed: dict[str, str] = {}
    axes: dict[str, list[str]] = {}
    for change in changes:
        key, values = _values(change)
        fixed.pop(key, None), axes.pop(key, None)
        if key == "seed" and len(values) > 1:
            raise SettingsError(f"--set {change}: seeds are counted; use --seeds N, from the setting seed on")
        if key != "seed" and (len(values) > 1 or change.partition("=")[2].strip().startswith("[") or key in swept):
            if key in SAME_RESULT:
                raise SettingsError(f"--set {change}: {key} changes no result; give it one value, without brackets")
            axes[key] = [f"{key}={value}" for value in values]
        else:
            fixed[key] = change
    load(source, [*fixed.values(), *(values[0] for values in axes.values())], preset=preset)  # are the keys known?
    base = load(source, fixed.values(), preset=preset)
    axes = {key: axes[key] for key in base.flat() if key in axes}
    swept_values: dict[str, dict[Scalar, None]] = {key: {} for key in [*axes, "seed"]}
    runs: dict[str, Settings] = {}
    for chosen in product(*axes.values()):
        for seed in range(base.seed, base.seed + seeds):
            settings = load(source, [*fixed.values(), *chosen, f"seed={seed}"], preset=preset)
            name = _name(settings, axes)
            if name in runs:
                raise SettingsError(f"--set: two runs would be called {name}; give each value once")
            runs[name] = settings
            for key, found in swept_values.items():
                found[settings.flat()[key]] = None
    return Grid(base, {key: list(found) for key, found in swept_values.items()}, runs)


def default_place(grid: Grid) -> Path:
    """Under `runs/`, named for the data and what is swept: "runs/cifar100-alpha"; the same command finds it again."""
    swept = [short_key(key) for key in grid.values if key != "seed"] or ["seeds"]
    return Path("runs") / "-".join([Path(grid.base.data.name).stem, *swept])


def _values(change: str) -> tuple[str, list[str]]:
    """A change's key, and its values as they are written."""
    key, _, text = (part.strip() for part in change.partition("="))
    bracketed = text.startswith("[") and text.endswith("]")
    values = [value.strip() for value in _COMMAS.split(text[1:-1] if bracketed else text)]
    if (bracketed or len(values) > 1) and not all(values):
        raise SettingsError(f"--set {change}: a value is missing; write KEY=a,b,c, and quote a value that has a comma")
    return key, values


def _name(settings: Settings, keys: Iterable[str]) -> str:
    flat = settings.flat()
    parts = [f"{short_key(key)}={value_text(flat[key])}" for key in keys]
    return re.sub(r"[^\w.=+-]+", "-", "-".join([*parts, f"seed{settings.seed}"]))
