"""What a report is made from: a finished run directory, read."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fed_rebel.report.columns import COLUMNS
from fed_rebel.report.rounds import read_rounds
from partitions import Partition

CLIENTS = [*(column.key for column in COLUMNS), "test_size", "threshold_pooled", "gain_prior"]
PREDICTIONS = ["client", "split", "label", "local_label", "score", "remote_label", "remote_prior_label"]

T = TypeVar("T")


@dataclass(frozen=True)
class RunRecord:
    """A finished run as plain records (design: the run directory)."""

    name: str
    settings: dict[str, Any]  # the tree of settings.toml
    fingerprint: str  # of the partition
    histograms: NDArray[np.int64]  # [clients, C] training images of each class, rows as in `clients`
    clients: pd.DataFrame  # clients.csv
    predictions: pd.DataFrame  # predictions.parquet
    rounds: pd.DataFrame  # rounds.jsonl, see `read_rounds`


def read_run(run: Path) -> RunRecord:
    """Read the directory of a finished run; `rounds.jsonl` may be missing.

    Raises ValueError, one line, where another file is missing or damaged, or lacks a column or a client.
    """
    settings = _read(run / "settings.toml", lambda path: tomllib.loads(path.read_text(encoding="utf-8")))
    partition = _read(run / "partition.npz", Partition.load)
    clients = _read(run / "clients.csv", pd.read_csv)
    predictions = _read(run / "predictions.parquet", pd.read_parquet)
    for name, frame, wanted in (
        ("clients.csv", clients, CLIENTS),
        ("predictions.parquet", predictions, PREDICTIONS),
    ):
        if missing := [column for column in wanted if column not in frame.columns]:
            raise ValueError(f"{run / name}: lacks {', '.join(missing)}; a report needs these columns")
    named = clients["client"].tolist()
    if set(predictions.loc[predictions["split"] == "test", "client"]) != set(named) or not named:
        raise ValueError(f"{run / 'predictions.parquet'}: its test rows must be of the clients in clients.csv")
    return RunRecord(
        name=run.resolve().name,
        settings=settings,
        fingerprint=partition.fingerprint,
        histograms=_histograms(partition, named),
        clients=clients,
        predictions=predictions,
        rounds=read_rounds(run / "rounds.jsonl"),
    )


def _histograms(partition: Partition, clients: list[int]) -> NDArray[np.int64]:
    row_of = {shard.client: row for row, shard in enumerate(partition.shards)}
    return partition.label_counts[[row_of[client] for client in clients]]


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    try:
        return reader(path)
    except (OSError, ValueError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}; a report needs the directory of a finished run") from error
