"""Strategies against federated averaging as one Markdown table: a row a setting, per partition.

    python examples/strategy_table.py runs/strategies/*

All runs have the same seeds and partitions; a row is named by what it changes of the default settings. Accuracies are
in per cent: "shared" is Head2 + Tail through the warm start's Head1 on the balanced test set, "own heads" through the
clients' own Head1s on it, the others on the clients' own test images. "private start" is what all begin with. `+-` is
the standard deviation over seeds; in brackets is the difference from `fedavg` weighted by samples on the same seeds, in
points, with its 95 % interval where there are several seeds.
"""

import sys
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from fed_rebel.report.grid import Run, grid_keys, read_runs, setting_name
from fed_rebel.report.statistics import mean_interval
from fed_rebel.settings import Settings

COLUMNS = {
    "shared": "shared",
    "balanced_acc": "own heads",
    "remote_acc": "remote",
    "remote_acc_prior": "remote + prior",
    "overall_acc": "overall",
}

DEFAULTS = Settings().flat()
USUAL = "fedavg"
START = "private start"


def main(paths: Iterable[str]) -> None:
    """Print the tables of these runs, one a partition."""
    runs = read_runs(paths)
    keys = [key for key in grid_keys(runs) if not key.startswith("partition.")]
    rows = [_row(run, [key for key in keys if run.settings[key] != DEFAULTS[key]]) for run in runs]
    starts = [_start(run, row) for run, row in zip(runs, rows, strict=True) if row["name"] == USUAL]
    table = pd.DataFrame(starts + rows)
    for partition, own in table.groupby("partition", sort=False):
        usual = own[own["name"] == USUAL].set_index("seed")
        print(f"\n{partition}, Gini {own['gini'].mean():.3f}\n")
        print("| | seeds | " + " | ".join(COLUMNS.values()) + " |\n|" + " --- |" * (2 + len(COLUMNS)))
        best_first = sorted(own.groupby("name"), key=lambda named: -named[1]["shared"].mean())
        for name, of_name in best_first:
            cells = [_cell(of_name.set_index("seed")[column], usual[column]) for column in COLUMNS]
            print(f"| {name} | {len(of_name)} | " + " | ".join(cells) + " |")


def _row(run: Run, keys: Sequence[str]) -> dict[str, object]:
    shared = pd.read_json(run.path / "rounds.jsonl", lines=True)["balanced_acc"].dropna().tolist()
    kind, alpha = run.settings["partition.kind"], run.settings["partition.alpha"]
    about = {
        "partition": f"{kind}, alpha {alpha:g}",
        "name": setting_name(run.settings, keys) if keys else USUAL,
        "seed": run.seed,
    }
    return (
        about
        | {"gini": run.clients["gini"].mean(), "shared": shared[-1]}
        | run.clients.mean(numeric_only=True).to_dict()
    )


def _start(run: Run, row: dict[str, object]) -> dict[str, object]:
    rounds = pd.read_json(run.path / "rounds.jsonl", lines=True)
    start = rounds[rounds["stage"] == "private_start"]
    measured = start.mean(numeric_only=True)
    return (
        row
        | {"name": START, "balanced_acc": np.nan, "shared": measured["balanced_acc"]}
        | measured.reindex(list(COLUMNS)[2:]).to_dict()
    )


def _cell(values: "pd.Series[float]", usual: "pd.Series[float]") -> str:
    if values.isna().all():
        return "-"
    spread = f" +- {100 * values.std(ddof=1):.1f}" if len(values) > 1 else ""
    text = f"{100 * values.mean():.1f}{spread}"
    differences = 100 * (values - usual).dropna()
    if differences.empty or np.allclose(differences, 0):
        return text
    found = mean_interval(differences)
    interval = "" if np.isnan(found.low) else f", {found.low:+.1f} to {found.high:+.1f}"
    return f"{text} ({found.value:+.1f}{interval})"


if __name__ == "__main__":
    main(sys.argv[1:])
