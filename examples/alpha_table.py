"""The effect of skew as one Markdown table: a column an alpha, the mean and the spread over the seeds of its runs.

    python examples/alpha_table.py runs/cifar100-*

Accuracies are plain means over a run's clients, in per cent. `+-` is the standard deviation over seeds. Differences
are means on the same clients, in points, with 95 % intervals over the seeds: "local - at start" is what local training
adds to the private start, "gain at 46 %" overall minus remote accuracy at that coverage.
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from fed_rebel.report import read_rounds
from fed_rebel.report.statistics import over_seeds
from fed_rebel.settings import load

ACCURACIES = {
    "gini": "Gini",
    "majority_acc": "majority class",
    "local_acc_start": "local at start",
    "local_acc": "local",
    "remote_acc_plain": "remote",
    "overall_acc_plain": "overall",
    "coverage_plain": "coverage",
    "remote_acc_prior": "remote + prior",
    "overall_acc_prior": "overall + prior",
    "coverage_prior": "coverage + prior",
    "remote_acc_stacked": "remote, stacked",
    "overall_acc_stacked": "overall, stacked",
    "coverage_stacked": "coverage, stacked",
}
DIFFERENCES = {
    "local - at start": ("local_acc", "local_acc_start"),
    "gain at 46 %": ("overall_at_46_plain", "remote_acc_plain"),
    "gain at 46 % + prior": ("overall_at_46_prior", "remote_acc_prior"),
    "overall, stacked - remote + prior": ("overall_acc_stacked", "remote_acc_prior"),
}
SHARED = {
    "shared_start": "shared, warm start",
    "shared_end": "shared, end",
    "balanced_acc": "shared through own Head1",
}


def main(paths: Iterable[str]) -> None:
    """Print the table of these run directories."""
    runs = [_read(Path(path)) for path in paths]
    alphas = sorted({run.alpha.iloc[0] for run in runs})
    columns = [_column([run for run in runs if run.alpha.iloc[0] == alpha]) for alpha in alphas]
    print("| | " + " | ".join(f"alpha {alpha:g}" for alpha in alphas) + " |")
    print("|" + " --- |" * (1 + len(alphas)))
    for heading in columns[0]:
        print(f"| {heading} | " + " | ".join(column[heading] for column in columns) + " |")


def _column(runs: list[pd.DataFrame]) -> dict[str, str]:
    """What stands under an alpha, by heading."""
    clients = pd.concat(runs)
    cells = {"seeds": str(len(runs))}
    for name, heading in ACCURACIES.items():
        means = np.array([run[name].mean() for run in runs])
        cells[heading] = _spread(means) if name == "gini" else _spread(100 * means, 1)
    for heading, (more, less) in DIFFERENCES.items():
        cells[heading] = _interval(clients[more] - clients[less], clients["seed"])
    for name, heading in SHARED.items():
        cells[heading] = _spread(np.array([100 * run[name].mean() for run in runs]), 1)
    return cells


def _read(path: Path) -> pd.DataFrame:
    settings = load(path / "settings.toml")
    # Where clients share no whole model, as with method = "local", nothing is measured of it.
    shared = read_rounds(path / "rounds.jsonl")["balanced_acc"].dropna().tolist() or [math.nan]
    clients = pd.read_csv(path / "clients.csv")
    return clients.assign(
        alpha=settings.partition.alpha, seed=settings.seed, shared_start=shared[0], shared_end=shared[-1]
    )


def _spread(values: np.ndarray, decimals: int = 3) -> str:
    if np.isnan(values).any():
        return "–"  # noqa: RUF001
    spread = f" +- {values.std(ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{spread}"


def _interval(differences: pd.Series, seeds: pd.Series) -> str:
    """Over the seeds: the clients of one run share a server."""
    found = over_seeds(100 * differences, seeds)
    if np.isnan(found.value):
        return "–"  # noqa: RUF001
    interval = "" if np.isnan(found.low) else f" [{found.low:+.1f}, {found.high:+.1f}]"
    return f"{found.value:+.1f}{interval}"


if __name__ == "__main__":
    main(sys.argv[1:])
