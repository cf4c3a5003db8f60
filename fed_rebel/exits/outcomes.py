"""What becomes of queries: both answers to each, thresholds found on some of them and applied to others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fed_rebel.exits.calibrate import calibrate, calibrate_by_class, route
from fed_rebel.exits.curve import Curve, coverage_curve
from fed_rebel.exits.target import Target


@dataclass(frozen=True)
class Thresholds:
    """On the score: one for all queries but those whose local label has its own."""

    common: float
    own: Mapping[int, float] = field(default_factory=dict)

    def answered(self, label: NDArray[np.integer], score: NDArray[np.floating]) -> NDArray[np.bool_]:
        """[N]: the queries that the device answers, by the early classifier's label [N] and score [N]."""
        if not self.own:
            return route(score, self.common)
        return route(score, [self.own.get(c, self.common) for c in label.tolist()])


@dataclass(frozen=True, eq=False)
class Outcomes:
    """N queries, and whether the device's and the server's answer to each is right."""

    label: NDArray[np.integer]  # [N] the early classifier's
    score: NDArray[np.floating]  # [N] finite
    local: NDArray[np.bool_]  # [N]
    remote: NDArray[np.bool_]  # [N]

    @classmethod
    def of(cls, predictions: pd.DataFrame, remote: str = "remote_label") -> Self:
        """From rows as `predict` gives them; `remote` is the column of the server's answers."""
        local, right = ((predictions[name] == predictions["label"]).to_numpy() for name in ("local_label", remote))
        return cls(predictions["local_label"].to_numpy(), predictions["score"].to_numpy(), local, right)

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, rows: NDArray[np.integer]) -> Self:
        """Those of some of the queries."""
        return type(self)(self.label[rows], self.score[rows], self.local[rows], self.remote[rows])

    def curve(self) -> Curve:
        """Accuracies against coverage; ValueError where there are no queries."""
        return coverage_curve(self.score, self.local, self.remote)

    def thresholds(self, target: Target, *, by_class: bool = False) -> Thresholds:
        """Calibrated for `target` on these queries, `by_class` also for each label that enough of them bear."""
        own = calibrate_by_class(self.label, self.score, self.local, self.remote, target) if by_class else {}
        return Thresholds(calibrate(self.score, self.local, self.remote, target), own)

    def answered(self, at: Thresholds) -> NDArray[np.bool_]:
        """[N]: the queries that the device answers."""
        return at.answered(self.label, self.score)

    def right(self, at: Thresholds) -> NDArray[np.bool_]:
        """[N]: whether the answer that a query gets is right."""
        return np.where(self.answered(at), self.local, self.remote)

    def measures(self, at: Thresholds) -> dict[str, float]:
        """Coverage and the accuracies at these thresholds; NaN of the answered, or sent, where there are none."""
        answered, overall, remote = self.answered(at), self.right(at).mean(), self.remote.mean()
        return {
            "remote_acc": remote,
            "threshold": at.common,
            "coverage": answered.mean(),
            "local_acc_answered": _mean(self.local[answered]),
            "remote_acc_sent": _mean(self.remote[~answered]),
            "overall_acc": overall,
            "gain": overall - remote,
        }


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")
