"""Several runs side by side: which there are, what differs between their settings, and their clients as one table."""

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fed_rebel.report.record import labels_early
from fed_rebel.settings import SAME_RESULT, Scalar, Settings

ALWAYS = ("partition.kind", "partition.alpha", "early.kind")
"""Settings that the table of clients names whether they differ or not."""

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run as a comparison needs it."""

    path: Path
    name: str
    """Its directory's; of two runs with the same one the whole path."""
    settings: Mapping[str, Scalar]
    """Every key, dotted; one that the run's file does not name has its default."""
    clients: pd.DataFrame
    """`clients.csv`."""

    @property
    def seed(self) -> int:
        """Of every random draw of the run."""
        return int(self.settings["seed"])

    @property
    def exits(self) -> dict[str, Scalar]:
        """Its settings of that name."""
        return {key.removeprefix("exits."): value for key, value in self.settings.items() if key.startswith("exits.")}

    @property
    def labels_early(self) -> bool:
        """Whether its clients have an early classifier, so that there is a coverage to speak of."""
        return labels_early(self.settings["early.kind"], self.clients)


def load_runs(paths: StrPath | Iterable[StrPath]) -> pd.DataFrame:
    """The clients of finished runs as one table, a row a run and client; for a notebook.

    `paths` are run directories, and directories of runs such as a sweep's, whose unfinished runs are left out.
    Columns: `run` (its name), `seed`, `method`, `partition.kind`, `partition.alpha`, `early.kind`, every other setting
    that differs between the runs under its dotted key, then the columns of `clients.csv`. Raises ValueError, one line,
    where there is no finished run, or a file of one is missing or damaged.
    """
    runs = read_runs([paths] if isinstance(paths, (str, os.PathLike)) else paths)
    return clients_of(runs)


def clients_of(runs: Sequence[Run]) -> pd.DataFrame:
    """The table of `load_runs` of runs that are read."""
    differ = [key for key in differing(runs) if key not in ("seed", "method")]
    keys = [*ALWAYS, *(key for key in differ if key not in ALWAYS)]
    tables = []
    for run in runs:
        told = {"run": run.name, "seed": run.seed, "method": run.settings.get("method", "rebel")}
        told |= {key: run.settings.get(key) for key in keys}
        tables.append(pd.concat([pd.DataFrame(told, index=run.clients.index), run.clients], axis=1))
    return pd.concat(tables, ignore_index=True)


def read_runs(paths: Iterable[StrPath]) -> list[Run]:
    """The finished runs at these paths, each once, by path; see `load_runs`."""
    found = find_runs(paths)
    names = [path.name for path in found]
    return [
        Run(path, path.name if names.count(path.name) == 1 else str(path), read_settings(path), _clients(path))
        for path in found
    ]


def find_runs(paths: Iterable[StrPath]) -> list[Path]:
    """The directories of finished runs: a path that is one, and those in a path that is a directory of runs."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if is_run(path):
            if not (path / "clients.csv").is_file():
                raise ValueError(f"{path}: not finished (no clients.csv); go on with: fed-rebel resume {path}")
            found[path.resolve()] = None
            continue
        inside = [run for run in _runs_in(path) if (run / "clients.csv").is_file()]
        if not inside:
            raise ValueError(f"{path}: no finished run here; give the directory of a run, or one of runs")
        found |= dict.fromkeys(run.resolve() for run in inside)
    if not found:
        raise ValueError("no paths; give directories of runs")
    return list(found)


def is_run(path: Path) -> bool:
    """Whether a run was begun in this directory."""
    return (path / "settings.toml").is_file()


def is_directory_of_runs(path: Path) -> bool:
    """Whether this directory, which is no run itself, holds runs."""
    return not is_run(path) and bool(_runs_in(path))


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys whose values are not the same in all runs, in the order of the settings."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if len({run.settings.get(key) for run in runs}) > 1]


def grid_keys(runs: Sequence[Run]) -> list[str]:
    """The keys that make a setting of the grid: those that differ, without the seed and what changes no result."""
    return [key for key in differing(runs) if key != "seed" and key not in SAME_RESULT]


def setting_name(settings: Mapping[str, Scalar], keys: Iterable[str]) -> str:
    """What a run is among others: "alpha=0.01, early.kind=knn"; the data set where nothing differs.

    A key that the run, of another version, does not have is "unset".
    """
    told = [f"{short_key(key)}={value_text(settings[key]) if key in settings else 'unset'}" for key in keys]
    return ", ".join(told) or value_text(settings["data.name"])


def read_settings(run: Path) -> dict[str, Scalar]:
    """The settings of a run, see `flat_settings`. Raises ValueError, one line, where its file is missing or damaged."""
    try:
        tree = tomllib.loads((run / "settings.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{run / 'settings.toml'}: {' '.join(str(error).split())}; restore it") from None
    return flat_settings(tree)


def flat_settings(tree: Mapping[str, Any]) -> dict[str, Scalar]:
    """Every key of a settings file that was read, dotted; one that it does not name has its default."""
    named: dict[str, Scalar] = {}
    for key, value in tree.items():
        named |= {f"{key}.{name}": own for name, own in value.items()} if isinstance(value, dict) else {key: value}
    return Settings().flat() | named


def short_key(key: str) -> str:
    """The last word of a dotted key where no other key ends in it ("alpha"), else the key ("early.kind")."""
    name = key.rsplit(".", 1)[-1]
    same = [other for other in Settings().flat() if other.rsplit(".", 1)[-1] == name]
    return name if len(same) == 1 else key


def value_text(value: Scalar) -> str:
    """A value as it is named: 1.0 as "1", True as "true", of a path the file's name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return Path(value).stem if isinstance(value, str) and Path(value).is_absolute() else str(value)


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("[!.]*/settings.toml"))


def _clients(run: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(run / "clients.csv")
    except (OSError, ValueError) as error:
        raise ValueError(f"{run / 'clients.csv'}: {' '.join(str(error).split())}; restore it") from None
