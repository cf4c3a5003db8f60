"""A row a client of `clients.csv`: every number follows from the client's predictions and its record of itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from fed_rebel.exits.outcomes import Outcomes
from fed_rebel.exits.target import Target

ServerAnswers = Literal["plain", "prior", "stacked"]
ANSWERS: dict[ServerAnswers, str] = {
    "plain": "remote_label",
    "prior": "remote_prior_label",
    "stacked": "remote_stacked_label",
}
"""The server's answers as they are, corrected by the client's label shares, and stacked (`exits/stacking.py`): the
column of `predictions.parquet`."""
FIXED_COVERAGES = (10, 20, 30, 46, 50, 70, 90)
"""Per cent; 46 is where the paper states its gain."""
FEWEST_TO_CALIBRATE = 50
"""Validation images below which a client takes the threshold pooled over all clients."""


def client_rows(
    records: Sequence[Mapping[str, Any]],
    predictions: pd.DataFrame,
    target: Target,
    *,
    server: ServerAnswers = "plain",
    by_class: bool = False,
    pool: bool = False,
) -> pd.DataFrame:
    """The table of clients, in the order of `records`.

    `records` hold `client`, sizes, `classes`, `gini` and `majority_acc`; they come first in the row. `predictions` has
    the rows of `predictions.parquet`. Thresholds are calibrated on validation rows alone. Columns take the server's
    answers as `server` says; those that end in `_plain`, `_prior` and `_stacked` are of the one and of the others.

    With `by_class` each label of the early classifier that has enough validation rows gets a threshold of its own, and
    `threshold` is that of the other labels. With `pool`, as for a client with fewer than 50 validation rows, thresholds
    are calibrated on those of all clients together. Where no early classifier labels a client's queries
    (`local_label` -1) local accuracies, and overall accuracies at fixed coverages, are NaN.
    """
    answers = {kind: column for kind, column in ANSWERS.items() if column in predictions}
    pooled = {
        kind: Outcomes.of(_of_split(predictions, "val"), column).thresholds(target) for kind, column in answers.items()
    }
    rows = []
    for record in records:
        own = predictions[predictions["client"] == record["client"]]
        row = dict(record)
        for kind, column in answers.items():
            val, test = (Outcomes.of(_of_split(own, split), column) for split in ("val", "test"))
            row["local_acc"], row["threshold_pooled"] = test.local.mean(), pool or len(val) < FEWEST_TO_CALIBRATE
            at = pooled[kind] if row["threshold_pooled"] else val.thresholds(target, by_class=by_class)
            curve = test.curve()
            fixed = {f"overall_at_{percent}": float(curve.overall_at(percent / 100)) for percent in FIXED_COVERAGES}
            of_kind = test.measures(at) | fixed
            row |= {f"{name}_{kind}": value for name, value in of_kind.items()}
            if kind == server:
                row |= of_kind
        for percent in FIXED_COVERAGES:
            row[f"local_answered_at_{percent}"] = float(curve.local_answered_at(percent / 100))
        if (own["local_label"] < 0).all():  # nothing answers early: at coverage 0 only is there anything to measure
            row |= {name: math.nan for name in row if name.startswith(("local_", "overall_at_"))}
            row["threshold_pooled"] = False
        rows.append(row)
    return pd.DataFrame(rows)


def server_answers(exits: Mapping[str, Any]) -> ServerAnswers:
    """Which of the server's answers a run takes, by its settings `exits`."""
    if exits.get("stacking", False):
        return "stacked"
    return "prior" if exits.get("server_prior", False) else "plain"


def _of_split(predictions: pd.DataFrame, split: str) -> pd.DataFrame:
    return predictions[predictions["split"] == split]
