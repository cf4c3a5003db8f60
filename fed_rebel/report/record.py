"""What a report is made from: a finished run directory, read."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fed_rebel.exits.rows import ServerAnswers, server_answers
from fed_rebel.report.columns import COLUMNS
from fed_rebel.report.queries import Queries, queries_of
from fed_rebel.report.rounds import read_rounds
from partitions import Partition, label_histogram

CLIENTS = [*(column.key for column in COLUMNS), "local_acc_answered", "remote_acc_sent"]
CLIENTS += ["test_size", "threshold", "threshold_pooled"]
PREDICTIONS = ["client", "split", "label", "local_label", "score", "remote_label", "remote_prior_label"]

INFORMED: dict[ServerAnswers, str] = {
    "prior": "knows the label shares",
    "stacked": "knows the label shares and the device's opinion",
}
"""What a server does that is told more of its client."""

T = TypeVar("T")


@dataclass(frozen=True)
class RunRecord:
    """A finished run as plain records (design: the run directory)."""

    name: str
    settings: dict[str, Any]  # the tree of settings.toml
    fingerprint: str  # of the partition
    histograms: NDArray[np.int64]
    """[clients, C] training images of each class, rows as in `clients`; test images where clients brought their own."""
    clients: pd.DataFrame  # clients.csv, and `gain_from_server`: overall minus local accuracy
    newcomers: pd.DataFrame  # newcomers.csv, empty where there is none
    predictions: pd.DataFrame  # predictions.parquet
    queries: Queries  # of its test rows
    rounds: pd.DataFrame  # rounds.jsonl, see `read_rounds`

    @property
    def labels_early(self) -> bool:
        """Whether the clients have an early classifier: without one nothing is answered alone."""
        return labels_early(self.settings.get("early", {}).get("kind"), self.clients)

    @property
    def server(self) -> ServerAnswers:
        """The kind of the server's answers that the run takes."""
        return server_answers(self.settings.get("exits", {}))

    @property
    def informed(self) -> ServerAnswers:
        """The kind that the server's answers as they are are shown beside."""
        return "stacked" if self.server == "stacked" else "prior"


def labels_early(kind: Any, clients: pd.DataFrame) -> bool:
    """Whether clients of this `early.kind` and these rows of `clients.csv` have an early classifier."""
    return kind != "none" and bool(clients["local_acc"].notna().all())


def read_run(run: Path) -> RunRecord:
    """Read the directory of a finished run; `rounds.jsonl` may be missing.

    Raises ValueError, one line, where another file is missing or damaged, or lacks a column or a client.
    """
    settings = _read(run / "settings.toml", lambda path: tomllib.loads(path.read_text(encoding="utf-8")))
    partition = _read(run / "partition.npz", Partition.load)
    # Thresholds to the last bit: one may be a score itself, and that query is answered.
    clients = _read(run / "clients.csv", lambda path: pd.read_csv(path, converters={"threshold": float}))
    share = settings.get("report", {}).get("share")
    if share in ("none", "rows") and not (run / "predictions.parquet").exists():
        raise ValueError(
            f"{run}: its clients kept their predictions, which a report is made from, for themselves (report.share = "
            f"'{share}')"
        )
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
    clients["gain_from_server"] = clients["overall_acc"] - clients["local_acc"]
    exits = settings.get("exits", {})
    return RunRecord(
        name=run.resolve().name,
        settings=settings,
        fingerprint=str(clients["partition"].iloc[0]) if "partition" in clients else partition.fingerprint,
        histograms=_histograms(partition, predictions, named),
        clients=clients,
        newcomers=_read(run / "newcomers.csv", pd.read_csv) if (run / "newcomers.csv").exists() else clients.iloc[:0],
        predictions=predictions,
        queries=queries_of(predictions, clients, exits, partition.classes),
        rounds=read_rounds(run / "rounds.jsonl"),
    )


def _histograms(partition: Partition, predictions: pd.DataFrame, clients: list[int]) -> NDArray[np.int64]:
    if not partition.shards:
        test = predictions[predictions["split"] == "test"]
        of_client = (test.loc[test["client"] == client, "label"] for client in clients)
        return np.stack([label_histogram(labels, partition.classes) for labels in of_client])
    row_of = {shard.client: row for row, shard in enumerate(partition.shards)}
    return partition.label_counts[[row_of[client] for client in clients]]


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    try:
        return reader(path)
    except (OSError, ValueError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise ValueError(f"{path}: {reason}; a report needs the directory of a finished run") from error
