"""The coverage curves of all clients, read at the same coverages."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fed_rebel.exits import coverage_curve
from fed_rebel.report.queries import Queries

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClientCurves:
    """The curves of n clients at G coverages, on their test shards; accuracies in [0, 1]."""

    clients: tuple[int, ...]
    coverage: Floats  # [G] from 0 to 1
    local_answered: Floats  # [n, G] local accuracy of the answered queries; NaN at coverage 0
    overall: Floats  # [n, G] overall accuracy
    overall_prior: Floats  # [n, G] overall accuracy where the server knows the client's label shares


def client_curves(predictions: pd.DataFrame, steps: int = 100) -> ClientCurves:
    """The curves that follow from the test rows of `predictions.parquet`, at steps + 1 even coverages."""
    coverage = np.linspace(0, 1, steps + 1)
    curves = []
    test = predictions[predictions["split"] == "test"]
    for client, rows in test.groupby("client", sort=True):
        score, label = rows["score"].to_numpy(), rows["label"].to_numpy()
        local = rows["local_label"].to_numpy() == label
        plain = coverage_curve(score, local, rows["remote_label"].to_numpy() == label)
        prior = coverage_curve(score, local, rows["remote_prior_label"].to_numpy() == label)
        answered, overall, overall_prior = (
            plain.local_answered_at(coverage),
            plain.overall_at(coverage),
            prior.overall_at(coverage),
        )
        if (rows["local_label"] < 0).all():  # without an early classifier there is coverage 0 and nothing else
            answered[1:] = overall[1:] = overall_prior[1:] = np.nan
        curves.append((client, answered, overall, overall_prior))
    clients, *stacked = zip(*curves, strict=True)
    return ClientCurves(clients, coverage, *(np.stack(each) for each in stacked))


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
