"""A row a client of `clients.csv`: every number follows from the client's predictions and its record of itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fed_rebel.exits.calibrate import calibrate, calibrate_by_class, route
from fed_rebel.exits.curve import coverage_curve
from fed_rebel.exits.target import Target

FIXED_COVERAGES = (10, 20, 30, 46, 50, 70, 90)
"""Per cent; 46 is where the paper states its gain."""
FEWEST_TO_CALIBRATE = 50
"""Validation images below which a client takes the threshold pooled over all clients."""


def client_rows(
    records: Sequence[Mapping[str, Any]],
    predictions: pd.DataFrame,
    target: Target,
    *,
    server_prior: bool,
    by_class: bool = False,
) -> pd.DataFrame:
    """The table of clients, in the order of `records`.

    `records` hold `client`, sizes, `classes`, `gini` and `majority_acc`; they come first in the row. `predictions` has
    the rows of `predictions.parquet`. Thresholds are calibrated on validation rows alone. The columns `threshold`,
    `coverage`, `overall_acc` and `gain` take the server's answers as they are, or, with `server_prior`, corrected by
    the client's label shares; those that end in `_plain` and `_prior` are of the one and of the other.

    With `by_class` each label of the early classifier that has enough validation rows gets a threshold of its own, and
    `threshold` is that of the other labels.
    """
    correct = _Correct.of(predictions)
    pooled = {
        remote: calibrate(correct.score["val"], correct.local["val"], answers["val"], target)
        for remote, answers in correct.remote.items()
    }
    rows = []
    for record in records:
        own = _Correct.of(predictions[predictions["client"] == record["client"]])
        rows.append(dict(record) | _accuracies(own, pooled, target, "prior" if server_prior else "plain", by_class))
    return pd.DataFrame(rows)


class _Correct:
    """Scores, and which answers are right, of the validation and of the test rows."""

    def __init__(self, splits: Mapping[str, pd.DataFrame]) -> None:
        def right(column: str) -> dict[str, np.ndarray]:
            return {name: (rows[column] == rows["label"]).to_numpy() for name, rows in splits.items()}

        self.label = {name: rows["local_label"].to_numpy() for name, rows in splits.items()}
        self.score = {name: rows["score"].to_numpy() for name, rows in splits.items()}
        self.local = right("local_label")
        self.remote = {"plain": right("remote_label"), "prior": right("remote_prior_label")}

    @classmethod
    def of(cls, predictions: pd.DataFrame) -> "_Correct":
        return cls({split: predictions[predictions["split"] == split] for split in ("val", "test")})


def _accuracies(
    own: _Correct, pooled: Mapping[str, float], target: Target, chosen: str, by_class: bool
) -> dict[str, Any]:
    score, local = own.score["test"], own.local["test"]
    is_pooled = len(own.score["val"]) < FEWEST_TO_CALIBRATE
    row: dict[str, Any] = {"local_acc": local.mean(), "threshold_pooled": is_pooled}
    for kind, answers in own.remote.items():
        remote = answers["test"]
        threshold = pooled[kind] if is_pooled else calibrate(own.score["val"], own.local["val"], answers["val"], target)
        own_thresholds: dict[int, float] = {}
        if by_class and not is_pooled:
            val = own.label["val"], own.score["val"], own.local["val"], answers["val"]
            own_thresholds = calibrate_by_class(*val, target)
        answered = route(score, [own_thresholds.get(label, threshold) for label in own.label["test"].tolist()])
        overall = np.where(answered, local, remote).mean()
        of_kind = {
            "remote_acc": remote.mean(),
            "threshold": threshold,
            "coverage": answered.mean(),
            "local_acc_answered": _mean(local[answered]),
            "remote_acc_sent": _mean(remote[~answered]),
            "overall_acc": overall,
            "gain": overall - remote.mean(),
        }
        curve = coverage_curve(score, local, remote)
        for percent in FIXED_COVERAGES:
            of_kind[f"overall_at_{percent}"] = float(curve.overall_at(percent / 100))
        row |= {f"{name}_{kind}": value for name, value in of_kind.items()}
    for name in ("threshold", "coverage", "local_acc_answered", "remote_acc_sent", "overall_acc", "gain"):
        row[name] = row[f"{name}_{chosen}"]
    row["remote_acc"] = row["remote_acc_plain"]
    for percent in FIXED_COVERAGES:
        row[f"overall_at_{percent}"] = row[f"overall_at_{percent}_{chosen}"]
        row[f"local_answered_at_{percent}"] = float(curve.local_answered_at(percent / 100))
    return row


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
