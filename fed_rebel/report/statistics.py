"""What can be said for certain: intervals over seeds, paired differences, rank correlations, calibration errors.

Every interval is the 95 % one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import atanh, sqrt, tanh

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from fed_rebel.exits import Outcomes, calibration_error, confidence_at, fit_temperature
from fed_rebel.exits.rows import FEWEST_TO_CALIBRATE

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; the interval is NaN where n observations are too few for one."""

    value: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Of the interval: what stands after +- where it is symmetric."""
        return (self.high - self.low) / 2


def mean_interval(values: ArrayLike) -> Estimate:
    """Mean and Student's t interval of independent values, such as a mean a seed; NaN are left out."""
    told = np.asarray(values, np.float64)
    told = told[~np.isnan(told)]
    if not told.size:
        return Estimate(np.nan, np.nan, np.nan, 0)
    mean = float(told.mean())
    if told.size == 1:
        return Estimate(mean, np.nan, np.nan, 1)
    half = float(stdtrit(told.size - 1, (1 + LEVEL) / 2) * told.std(ddof=1) / sqrt(told.size))
    return Estimate(mean, mean - half, mean + half, told.size)


def over_seeds(values: "pd.Series[float]", seeds: "pd.Series[int]") -> Estimate:
    """Mean and interval of values a client: over the seeds' means, the clients of one run are not independent draws.

    With one seed the mean has no interval.
    """
    return mean_interval(values.groupby(seeds.to_numpy()).mean())


@dataclass(frozen=True)
class PairedDifference:
    """Of the same clients under two methods: the mean difference, and the p of the paired t test for none.

    n is the number of partitions, over which interval and test go; with one there is neither.
    """

    difference: Estimate
    p: float


def paired_difference(one: pd.DataFrame, other: pd.DataFrame, column: str) -> PairedDifference:
    """`one` minus `other` in a column of `clients.csv`, client by client on the same partitions.

    Rows are paired by the partition's fingerprint (`partition`) and `client`, whatever run they come from; what one
    side has several times is averaged first, and what the other side lacks is left out. Then the pairs of a partition
    are averaged: its clients share a server. Raises ValueError where nothing pairs.
    """
    pair = ["partition", "client"]
    sides = [table.groupby(pair)[column].mean() for table in (one, other)]
    both = pd.concat(sides, axis=1, join="inner", keys=["one", "other"]).dropna()
    if both.empty:
        raise ValueError(f"{column}: no client in common; a paired comparison needs runs on the same partitions")
    both = both.groupby("partition").mean()
    difference = mean_interval(both["one"] - both["other"])
    p = np.nan
    if len(both) > 1:
        from scipy import stats  # a second to import

        p = float(stats.ttest_rel(both["one"], both["other"]).pvalue)
    return PairedDifference(difference, p)


def rank_correlation(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Spearman's correlation of N pairs in [-1, 1]; NaN where one side is constant or N < 2.

    Pairs with NaN are left out. The interval, for N > 3, is by Fisher's z with the standard error
    sqrt((1 + r^2 / 2) / (N - 3)) (Bonett and Wright 2000).
    """
    pairs = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
    one, other = pairs[:, ~np.isnan(pairs).any(axis=0)]
    n = one.size
    if min(np.unique(one).size, np.unique(other).size) < 2:
        return Estimate(np.nan, np.nan, np.nan, n)
    from scipy import stats  # a second to import

    r = float(stats.spearmanr(one, other).statistic)
    if n <= 3:
        return Estimate(r, np.nan, np.nan, n)
    if abs(r) > 1 - 1e-12:
        return Estimate(r, r, r, n)
    half = float(ndtri((1 + LEVEL) / 2)) * sqrt((1 + r**2 / 2) / (n - 3))
    return Estimate(r, tanh(atanh(r) - half), tanh(atanh(r) + half), n)


def pooled_correlation(groups: Iterable[Estimate]) -> Estimate:
    """Several groups' rank correlations as one: Fisher's z, weighted by n - 3; NaN where no group has n > 3."""
    told = [group for group in groups if group.n > 3 and not np.isnan(group.value)]
    if not told:
        return Estimate(np.nan, np.nan, np.nan, 0)
    weights = np.array([group.n - 3.0 for group in told])
    z = float(np.average([np.arctanh(np.clip(group.value, -1 + 1e-12, 1 - 1e-12)) for group in told], weights=weights))
    half = float(ndtri((1 + LEVEL) / 2)) * sqrt((1 + tanh(z) ** 2 / 2) / weights.sum())
    return Estimate(tanh(z), tanh(z - half), tanh(z + half), sum(group.n for group in told))


def calibration_errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """Expected calibration error of the confidence on test queries, before and after a temperature: a row a client.

    `predictions` has the rows of `predictions.parquet`. The temperature is fitted on the client's validation rows, or
    on all clients' where it has fewer than 50. Columns: `client`, `temperature`, `calibration_error`, and
    `calibration_error_scaled` with the temperature; both in [0, 1], in 15 bins of equal width.
    """
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    pooled = Outcomes.of(val)
    rows = []
    for client, own in test.groupby("client", sort=True):
        queries, fitted_on = Outcomes.of(own), Outcomes.of(val[val["client"] == client])
        if len(fitted_on) < FEWEST_TO_CALIBRATE:
            fitted_on = pooled
        temperature = fit_temperature(fitted_on.score, fitted_on.local)
        before, after = (calibration_error(confidence_at(queries.score, t), queries.local) for t in (1.0, temperature))
        rows.append((client, temperature, before, after))
    return pd.DataFrame(rows, columns=["client", "temperature", "calibration_error", "calibration_error_scaled"])
