"""What several runs show together: a setting of the grid is a group of runs that differ in their seed only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from fed_rebel.exits.shift import shift_rows
from fed_rebel.report.columns import GINI, LOCAL, REMOTE, ROUTED, Column, count, percent
from fed_rebel.report.curves import client_curves, reachable_coverage
from fed_rebel.report.grid import Run, clients_of, grid_keys, setting_name
from fed_rebel.report.queries import remote_column, thresholds_of
from fed_rebel.report.record import RunRecord, read_run
from fed_rebel.report.statistics import (
    Estimate,
    PairedDifference,
    calibration_errors,
    mean_interval,
    over_seeds,
    paired_difference,
    pooled_correlation,
    rank_correlation,
)

COLUMNS = (GINI, LOCAL, REMOTE, *ROUTED)
RIVALS = (
    Column("majority_acc", "majority class", percent),
    Column("local_acc_start", "local at start", percent),
    Column("remote_acc_prior", "remote + prior", percent),
    Column("remote_acc_stacked", "remote, stacked", percent),
    Column("overall_acc_plain", "overall", percent),
    Column("overall_acc_prior", "overall + prior", percent),
    Column("overall_acc_stacked", "overall, stacked", percent),
    Column("coverage_stacked", "coverage, stacked", percent),
    Column("traffic", "MiB a client", count),
)
"""What a gain is held against: rivals that need no training, and the server that knows more of its client
(`fed_rebel/exits/stacking.py`); and what the run cost each client in messages, up and down."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs, read; every table names the setting of the grid."""

    runs: tuple[Run, ...]
    keys: tuple[str, ...]
    """The settings that the runs differ in, beside the seed."""
    settings: tuple[str, ...]
    """The names of the settings of the grid, ordered by their values."""
    clients: pd.DataFrame
    """A row a run and client: `load_runs`, `setting`, and what `_measured` adds."""
    curves: pd.DataFrame
    """Means over the clients of a run: `setting`, `seed`, `coverage`, `local_answered` (NaN at 0), `overall`."""
    shift: pd.DataFrame
    """Means over the clients of a run of `shift_rows`, with `setting` and `seed`; empty where no run can tell."""

    def label(self, setting: str) -> str:
        """A setting with its realised Gini: "alpha=0.01 (Gini 0.95)"."""
        return f"{setting} (Gini {self.clients.loc[self.clients['setting'] == setting, 'gini'].mean():.2f})"

    def runs_of(self, setting: str) -> list[Run]:
        """The runs of a setting, a seed each."""
        return [run for run in self.runs if setting_name(run.settings, self.keys) == setting]


def compare(runs: Sequence[Run]) -> Comparison:
    """Read what the runs predicted, and measure it.

    Raises ValueError, one line, where a run's file is missing or damaged, or two runs have the same settings and seed.
    """
    keys = tuple(grid_keys(runs))
    ordered = sorted(runs, key=lambda run: (*(_rank(run, key) for key in keys), run.seed))
    for one, other in combinations(ordered, 2):
        if one.seed == other.seed and all(one.settings.get(key) == other.settings.get(key) for key in keys):
            raise ValueError(f"{one.path} and {other.path}: the same settings and seed; name one of the two")
    names = [setting_name(run.settings, keys) for run in ordered]
    clients, curves, shifts = [], [], []
    for run, setting in zip(ordered, names, strict=True):
        record = read_run(run.path)
        clients.append(_measured(run, record))
        if run.labels_early:
            curves.append(_mean_curves(record).assign(setting=setting, seed=run.seed))
            shifts.append(_mean_shift(run, record.predictions).assign(setting=setting, seed=run.seed))
    table = clients_of(ordered)
    table.insert(1, "setting", np.repeat(names, [len(run.clients) for run in ordered]))
    told = pd.concat([table, pd.concat(clients, ignore_index=True)], axis=1)
    lacking = [column.key for column in RIVALS if column.key not in told]  # in runs of an earlier version
    return Comparison(
        runs=tuple(ordered),
        keys=keys,
        settings=tuple(dict.fromkeys(names)),
        clients=told.assign(**dict.fromkeys(lacking, np.nan)),
        curves=pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        shift=pd.concat(shifts, ignore_index=True) if shifts else pd.DataFrame(),
    )


def settings_table(
    comparison: Comparison, columns: Sequence[Column] = COLUMNS
) -> dict[str, tuple[int, dict[str, Estimate]]]:
    """By setting the number of seeds, and by column the mean over seeds of the plain mean over clients."""
    rows = {}
    for setting in comparison.settings:
        own = comparison.clients[comparison.clients["setting"] == setting]
        means = own.groupby("seed")[[column.key for column in columns]].mean()
        rows[setting] = (len(means), {column.key: mean_interval(means[column.key]) for column in columns})
    return rows


def bands(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Over the seeds of each setting: `setting`, x, and `mean`, `low` and `high` (the lowest and highest seed) of y."""
    over_seeds = rows.groupby(["setting", x], sort=False)[y]
    return over_seeds.agg(mean="mean", low="min", high="max").reset_index()


@dataclass(frozen=True)
class SkewEffect:
    """Rank correlations of Gini and gain."""

    clients: Estimate
    """Over all clients. Skew is set by the run, so they are no independent draws and its interval is too narrow."""
    runs: Estimate
    """Over the means of the runs: what the setting does."""
    within: Estimate
    """Among the clients of one setting, pooled over the settings: what a client's own skew does beside it."""


def effect_of_skew(comparison: Comparison) -> Iterator[tuple[str, SkewEffect]]:
    """Of runs that differ in nothing but the partition: rank correlation of a client's Gini and its gain.

    Gives the name of what else is set (empty where the runs differ in nothing else) and the correlations.
    """
    rest = [key for key in comparison.keys if not key.startswith("partition.")]
    names = {run.name: setting_name(run.settings, rest) if rest else "" for run in comparison.runs if run.labels_early}
    for name in dict.fromkeys(names.values()):
        own = comparison.clients[comparison.clients["run"].map(names) == name]
        means = own.groupby("run")[["gini", "gain"]].mean()
        yield (
            name,
            SkewEffect(
                clients=rank_correlation(own["gini"], own["gain"]),
                runs=rank_correlation(means["gini"], means["gain"]),
                within=pooled_correlation(rank_correlation(e["gini"], e["gain"]) for _, e in own.groupby("setting")),
            ),
        )


def paired(comparison: Comparison, column: str) -> Iterator[tuple[str, str, PairedDifference]]:
    """Each setting against each earlier one on the same partitions, where they differ in one key.

    Gives the two names and the later minus the earlier in `column`.
    """
    told = comparison.clients.dropna(subset=[column])
    of = {name: told[told["setting"] == name] for name in comparison.settings}
    values = {name: comparison.runs_of(name)[0].settings for name in comparison.settings}
    for earlier, later in combinations(comparison.settings, 2):
        changed = [key for key in comparison.keys if values[earlier].get(key) != values[later].get(key)]
        if len(changed) == 1 and set(of[earlier]["partition"]) & set(of[later]["partition"]):
            yield earlier, later, paired_difference(of[later], of[earlier], column)


@dataclass(frozen=True)
class Sources:
    """Where a setting's accuracy comes from: differences on the same clients, see `over_seeds`."""

    training: Estimate
    """Local accuracy minus that of the private start."""
    prior: Estimate
    """Remote accuracy with the client's label shares minus without."""
    stacking: Estimate
    """Remote accuracy stacked minus with the label shares alone."""
    best: Estimate
    """Overall accuracy, stacked, minus remote accuracy with the label shares."""


def sources(comparison: Comparison) -> Iterator[tuple[str, Sources]]:
    """By setting, where it has an early classifier."""
    for setting in comparison.settings:
        own = comparison.clients[comparison.clients["setting"] == setting]
        if own["local_acc"].notna().all():

            def difference(more: str, less: str, own: pd.DataFrame = own) -> Estimate:
                return over_seeds(own[more] - own[less], own["seed"])

            yield (
                setting,
                Sources(
                    training=difference("local_acc", "local_acc_start"),
                    prior=difference("remote_acc_prior", "remote_acc_plain"),
                    stacking=difference("remote_acc_stacked", "remote_acc_prior"),
                    best=difference("overall_acc_stacked", "remote_acc_prior"),
                ),
            )


def _rank(run: Run, key: str) -> tuple[bool, float, str]:
    """Numbers by their value, before words in alphabetical order."""
    value = run.settings.get(key, "")
    return (True, 0.0, value) if isinstance(value, str) else (False, float(value), "")


def _measured(run: Run, record: RunRecord) -> pd.DataFrame:
    """Beside a run's `clients.csv`, row by row: `gain_over_local` and `gain_over_remote` (overall minus that accuracy),
    `coverage_without_loss` (`reachable_coverage`), and the columns of `calibration_errors`, all NaN where there is no
    early classifier; and `traffic`."""
    clients, errors = run.clients, calibration_errors(record.predictions).set_index("client")
    table = pd.DataFrame(
        {
            "gain_over_local": clients["overall_acc"] - clients["local_acc"],
            "gain_over_remote": clients["gain"],
            "coverage_without_loss": reachable_coverage(record.queries),
        }
        | {name: clients["client"].map(errors[name]) for name in errors}
    )
    return (table if run.labels_early else table * np.nan).assign(traffic=_traffic(run, record.rounds))


def _traffic(run: Run, rounds: pd.DataFrame) -> "pd.Series[float]":
    """MiB of tensors that each client sent and received over the run."""
    mebibytes = (rounds["bytes_up"].fillna(0) + rounds["bytes_down"].fillna(0)) / 2**20
    return run.clients["client"].map(mebibytes.groupby(rounds["client"]).sum())


def _mean_curves(record: RunRecord) -> pd.DataFrame:
    curves = client_curves(record.predictions)
    lines = {"local_answered": curves.local_answered, "overall": curves.overall[record.server]}
    return pd.DataFrame({"coverage": curves.coverage} | {name: line.mean(axis=0) for name, line in lines.items()})


def _mean_shift(run: Run, predictions: pd.DataFrame) -> pd.DataFrame:
    thresholds, remote = thresholds_of(predictions, run.clients, run.exits), remote_column(run.exits)
    rows = shift_rows(predictions, thresholds, remote=remote)
    return rows.groupby(["share", "kind"], as_index=False)[["answered", "wrong_alone", "overall"]].mean()
