"""The test queries of a run, each client's from the surest to the least sure."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fed_rebel.exits import Outcomes, Target, Thresholds
from fed_rebel.exits.rows import ANSWERS, server_answers

Ints = NDArray[np.int64]

CALIBRATED = ("client", "threshold", "threshold_pooled")


@dataclass(frozen=True, eq=False)
class Queries:
    """N test queries: client by client in the order of `clients.csv`, each client's by falling score."""

    starts: Ints  # [clients + 1]: the rows of client i are starts[i] to starts[i + 1]
    score: NDArray[np.float32]  # [N] log-odds
    label: Ints  # [N] in [0, C)
    local: Ints  # [N] the early classifier's label
    remote: Ints  # [N] the server's, as the run takes them
    answered: NDArray[np.bool_]  # [N] whether the client answers it at its calibrated thresholds
    classes: int  # C

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return len(self.starts) - 1

    def by_class(self, chosen: NDArray[np.bool_]) -> Ints:
        """[clients, C]: how many of the chosen queries [N] each client has of each true class."""
        owner = np.repeat(np.arange(self.clients), np.diff(self.starts))
        cells = (owner * self.classes + self.label)[chosen]
        return np.bincount(cells, minlength=self.clients * self.classes).reshape(self.clients, self.classes)


def queries_of(predictions: pd.DataFrame, clients: pd.DataFrame, exits: dict[str, Any], classes: int) -> Queries:
    """The rows of split "test" of `predictions.parquet`, routed as `clients.csv` was calibrated.

    `exits` are the settings of that name.
    """
    remote, thresholds = remote_column(exits), thresholds_of(predictions, clients, exits)
    test = predictions[predictions["split"] == "test"].groupby("client")
    parts, answered = [], []
    for client in clients["client"]:
        rows = test.get_group(client).sort_values("score", ascending=False, kind="stable")
        parts.append(rows)
        answered.append(Outcomes.of(rows, remote).answered(thresholds[client]))
    rows = pd.concat(parts)
    return Queries(
        starts=np.append(0, np.cumsum([len(part) for part in parts])),
        score=rows["score"].to_numpy(np.float32),
        label=rows["label"].to_numpy(np.int64),
        local=rows["local_label"].to_numpy(np.int64),
        remote=rows[remote].to_numpy(np.int64),
        answered=np.concatenate(answered),
        classes=classes,
    )


def thresholds_of(predictions: pd.DataFrame, clients: pd.DataFrame, exits: dict[str, Any]) -> dict[int, Thresholds]:
    """Each client's, as `clients.csv` was calibrated.

    With `exits.by_class` the labels' own, which `clients.csv` does not list, are found again from the validation rows.
    """
    remote = remote_column(exits)
    val = predictions[(predictions["split"] == "val") & (predictions["local_label"] >= 0)].groupby("client")
    found = {}
    for client, threshold, pooled in zip(*(clients[name] for name in CALIBRATED), strict=True):
        found[int(client)] = Thresholds(threshold)
        if exits.get("by_class", False) and not pooled and client in val.groups:
            found[int(client)] = Outcomes.of(val.get_group(client), remote).thresholds(_target(exits), by_class=True)
    return found


def remote_column(exits: dict[str, Any]) -> str:
    """The column of `predictions.parquet` with the server's answers as the run takes them."""
    return ANSWERS[server_answers(exits)]


def _target(exits: dict[str, Any]) -> Target:
    target = Target.parse(exits.get("target", "best"))
    if target.kind != "delay":
        return target
    from fed_rebel.cost import in_time  # here, because the package imports torch, which no other report needs

    return in_time(target, exits)
