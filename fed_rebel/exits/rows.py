"""A row a client of `clients.csv`: every number follows from the client's predictions and its record of itself."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fed_rebel.exits.curve import Floats
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
    answers = {kind: Outcomes.of(predictions, column) for kind, column in ANSWERS.items() if column in predictions}
    # Where each client's rows stand is found once: to look through all rows for each client takes clients squared.
    of_client, of_both = _places(predictions, "client"), _places(predictions, ["client", "split"])
    validation = _places(predictions, "split")["val"]
    pooled = {kind: every[validation].thresholds(target) for kind, every in answers.items()}
    rows = []
    for record in records:
        client, row = record["client"], dict(record)
        for kind, every in answers.items():
            val, test = (every[of_both[client, split]] for split in ("val", "test"))
            row["local_acc"], row["threshold_pooled"] = test.local.mean(), pool or len(val) < FEWEST_TO_CALIBRATE
            at = pooled[kind] if row["threshold_pooled"] else val.thresholds(target, by_class=by_class)
            curve = test.curve()
            of_kind = test.measures(at) | _at_fixed("overall_at", curve.overall_at)
            row |= {f"{name}_{kind}": value for name, value in of_kind.items()}
            if kind == server:
                row |= of_kind
        row |= _at_fixed("local_answered_at", curve.local_answered_at)
        if (every.label[of_client[client]] < 0).all():
            # Nothing answers early: at coverage 0 only is there anything to measure.
            row |= {name: math.nan for name in row if name.startswith(("local_", "overall_at_"))}
            row["threshold_pooled"] = False
        rows.append(row)
    return pd.DataFrame(rows)


def server_answers(exits: Mapping[str, Any]) -> ServerAnswers:
    """Which of the server's answers a run takes, by its settings `exits`."""
    if exits.get("stacking", False):
        return "stacked"
    return "prior" if exits.get("server_prior", False) else "plain"


def _places(predictions: pd.DataFrame, by: str | list[str]) -> Mapping[Any, NDArray[np.intp]]:
    """Where the rows of each group stand, ascending; nowhere for a group that has none."""
    return defaultdict(lambda: np.empty(0, np.intp), predictions.groupby(by).indices)  # type: ignore[arg-type]


def _at_fixed(name: str, curve: Callable[[Floats], Floats]) -> dict[str, float]:
    values = curve(np.array(FIXED_COVERAGES) / 100).tolist()
    return {f"{name}_{percent}": value for percent, value in zip(FIXED_COVERAGES, values, strict=True)}
