"""The coverage curves of all clients, read at the same coverages."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fed_rebel.exits import Outcomes, coverage_curve
from fed_rebel.exits.rows import ANSWERS, ServerAnswers
from fed_rebel.report.queries import Queries

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClientCurves:
    """The curves of n clients at G coverages, on their test shards; accuracies in [0, 1]."""

    clients: tuple[int, ...]
    coverage: Floats  # [G] from 0 to 1
    local_answered: Floats  # [n, G] local accuracy of the answered queries; NaN at coverage 0
    overall: Mapping[ServerAnswers, Floats]  # [n, G] overall accuracy, by the kind of the server's answers


def client_curves(predictions: pd.DataFrame, steps: int = 100) -> ClientCurves:
    """The curves that follow from the test rows of `predictions.parquet`, at steps + 1 even coverages."""
    coverage = np.linspace(0, 1, steps + 1)
    test = predictions[predictions["split"] == "test"]
    clients, answered = [], []
    overall: dict[ServerAnswers, list[Floats]] = {kind: [] for kind, column in ANSWERS.items() if column in test}
    for client, rows in test.groupby("client", sort=True):
        clients.append(int(str(client)))
        curves = {kind: Outcomes.of(rows, ANSWERS[kind]).curve() for kind in overall}
        answered.append(curves["plain"].local_answered_at(coverage))
        for kind, curve in curves.items():
            overall[kind].append(curve.overall_at(coverage))
        if (rows["local_label"] < 0).all():  # without an early classifier there is coverage 0 and nothing else
            for line in (answered[-1], *(lines[-1] for lines in overall.values())):
                line[1:] = np.nan
    lines = {kind: np.stack(of_kind) for kind, of_kind in overall.items()}
    return ClientCurves(tuple(clients), coverage, np.stack(answered), lines)


def reachable_coverage(queries: Queries) -> Floats:
    """[clients] in [0, 1]: the largest coverage at which a client's overall accuracy is not below its remote accuracy.

    A description of the curve on the test queries, not a threshold that could have been chosen without them.
    """
    local, remote = queries.local == queries.label, queries.remote == queries.label
    reachable = []
    for first, end in zip(queries.starts[:-1], queries.starts[1:], strict=True):
        curve = coverage_curve(queries.score[first:end], local[first:end], remote[first:end])
        reachable.append(curve.coverage[curve.overall >= curve.overall[0]].max())
    return np.array(reachable)
