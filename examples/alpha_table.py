"""The effect of skew as one Markdown table: a row for each alpha, the mean and the spread over the seeds of its runs.

    python examples/alpha_table.py runs/cifar100-*

Accuracies are plain means over a run's clients, in per cent. `+-` is the standard deviation over seeds. "local - at
start" is what local training adds to the private start, "gain at 46 %" overall minus remote accuracy at that coverage:
both on the same clients, with their 95 % intervals over the clients of all seeds.
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from fed_rebel.runs import RunDirectory

COLUMNS = {
    "gini": "Gini",
    "majority_acc": "majority class",
    "local_acc_start": "local at start",
    "local_acc": "local",
    "remote_acc_plain": "remote",
    "remote_acc_prior": "remote + prior",
    "overall_acc_plain": "overall",
    "coverage_plain": "coverage",
    "overall_acc_prior": "overall, server prior",
    "coverage_prior": "coverage, server prior",
}


def main(paths: Iterable[str]) -> None:
    """Print the table of these run directories."""
    runs = [_read(Path(path)) for path in paths]
    alphas = sorted({run.alpha.iloc[0] for run in runs})
    gain_headings = ["local - at start", "gain at 46 %", "gain at 46 %, server prior"]
    server_headings = ["shared, warm start", "shared, end", "shared through own Head1"]
    headings = ["alpha", "seeds", *COLUMNS.values(), *gain_headings, *server_headings]
    print("| " + " | ".join(headings) + " |")
    print("|" + " --- |" * len(headings))
    for alpha in alphas:
        own = [run for run in runs if run.alpha.iloc[0] == alpha]
        cells = [f"{alpha:g}", str(len(own))]
        for name in COLUMNS:
            means = np.array([run[name].mean() for run in own])
            cells.append(_spread(means) if name == "gini" else _spread(100 * means, 1))
        clients = pd.concat(own)
        cells.append(_interval(100 * (clients["local_acc"] - clients["local_acc_start"])))
        for kind in ("plain", "prior"):
            cells.append(_interval(100 * (clients[f"overall_at_46_{kind}"] - clients[f"remote_acc_{kind}"])))
        for name in ("shared_start", "shared_end", "balanced_acc"):
            cells.append(_spread(np.array([100 * run[name].mean() for run in own]), 1))
        print("| " + " | ".join(cells) + " |")


def _read(path: Path) -> pd.DataFrame:
    run, settings = RunDirectory.open(path)
    # Where clients share no whole model, as with method = "local", nothing is measured of it.
    shared = [row["balanced_acc"] for row in run.rows() if row["client"] is None] or [math.nan]
    clients = pd.read_csv(path / "clients.csv")
    return clients.assign(alpha=settings.partition.alpha, shared_start=shared[0], shared_end=shared[-1])


def _spread(values: np.ndarray, decimals: int = 3) -> str:
    spread = f" +- {values.std(ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{spread}"


def _interval(differences: pd.Series) -> str:
    low, high = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
    return f"{differences.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
