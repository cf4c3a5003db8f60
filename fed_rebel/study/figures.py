"""Figures 6, 7 and 10, one function each, from the table of answers: as PNG, PDF and the CSV of what is drawn."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from fed_rebel import files
from fed_rebel.cost import Batch, Link, delay
from fed_rebel.exits import Curve, Outcomes

GRID = np.linspace(0, 1, 101)
"""Thresholds or coverages at which curves are drawn."""
BANDWIDTHS = (1, 2, 5, 10)
"""Mbit/s."""
COLOURS = {"gmc": "#0072B2", "gmc-diag": "#56B4E9", "linear": "#009E73", "kmeans": "#E69F00", "knn": "#CC79A7"}


def figure_6(answers: pd.DataFrame, folder: Path) -> None:
    """6a and 6b: accuracy of the answered queries, and the fraction answered, against the confidence threshold."""
    accuracy, answered = {}, {}
    for variant, runs in _variants(answers, regularised=False).items():
        shares, rights = zip(*(_against_threshold(own) for own in runs), strict=True)
        answered[variant] = np.mean(shares, axis=0)
        accuracy[variant] = pd.DataFrame(rights).mean().to_numpy()  # where no seed answers anything there is none
    for name, curves, label in (("fig6a", accuracy, "local accuracy"), ("fig6b", answered, "answered locally")):
        _draw(folder, name, pd.DataFrame(curves, index=pd.Index(GRID, name="confidence threshold")), label)


def figure_7a(answers: pd.DataFrame, folder: Path) -> None:
    """Local accuracy of the answered queries against coverage, with regularisation dashed."""
    curves = {}
    for regularised in (False, True):
        for variant, runs in _variants(answers, regularised=regularised).items():
            curves[variant] = np.mean([Outcomes.of(own).curve().local_answered_at(GRID[1:]) for own in runs], axis=0)
    _draw(folder, "fig7a", pd.DataFrame(curves, index=pd.Index(GRID[1:], name="answered locally")), "local accuracy")


def figure_7b(answers: pd.DataFrame, folder: Path) -> None:
    """Local accuracy (answered), remote accuracy (sent) and overall accuracy against coverage, regularised mixture."""
    regularised = _variants(answers, regularised=True)
    runs = regularised.get("gmc+reg") or regularised.get("gmc-diag+reg") or []
    if not runs:
        return
    curves = [Outcomes.of(own).curve() for own in runs]
    grid = GRID[1:-1]
    table = pd.DataFrame(
        {
            "local (answered)": np.mean([curve.local_answered_at(grid) for curve in curves], axis=0),
            "remote (sent)": np.mean([_remote_sent_at(curve, grid) for curve in curves], axis=0),
            "overall": np.mean([curve.overall_at(grid) for curve in curves], axis=0),
        },
        index=pd.Index(grid, name="answered locally"),
    )
    _draw(folder, "fig7b", table, "accuracy")


def reliability_diagram(table: pd.DataFrame, folder: Path) -> None:
    """Accuracy against confidence, from `tables.reliability`; on the diagonal the confidence says the truth."""
    figure, axes = _figure()
    axes.plot((0, 1), (0, 1), color="#9ca3af", linewidth=1)
    for variant, own in table.groupby("variant", sort=False):
        style = "--" if str(variant).endswith("+reg") else "-"
        colour = COLOURS.get(str(variant).removesuffix("+reg"))
        axes.plot(own["confidence"], own["accuracy"], style, marker=".", color=colour, label=str(variant))
    axes.set(xlabel="confidence", ylabel="local accuracy")
    axes.legend(frameon=False)
    _save(folder, "reliability", figure, table)


def figure_10a(batch: Batch, round_trip: float, folder: Path) -> None:
    """Delay of a batch against coverage, a curve a bandwidth; `round_trip` in seconds."""
    table = pd.DataFrame(
        {
            f"{bandwidth} Mbit/s": [
                delay(batch, coverage, Link(bandwidth * 1e6, round_trip)).total for coverage in GRID
            ]
            for bandwidth in BANDWIDTHS
        },
        index=pd.Index(GRID, name="answered locally"),
    )
    _draw(folder, "fig10a", table, f"delay of a batch of {batch.queries} [s]", percent=False)


def figure_10b(approaches: Mapping[str, tuple[float, Batch]], round_trip: float, folder: Path) -> None:
    """Device, network and server delay of a batch, stacked, by approach (its coverage and batch) and bandwidth."""
    rows = []
    for bandwidth in BANDWIDTHS:
        for approach, (coverage, batch) in approaches.items():
            parts = delay(batch, coverage, Link(bandwidth * 1e6, round_trip))
            rows.append((f"{bandwidth} Mbit/s", approach, parts.device, parts.network, parts.server))
    table = pd.DataFrame(rows, columns=["bandwidth", "approach", "device", "network", "server"])
    figure, axes = _figure()
    bottom = np.zeros(len(table))
    for part, colour in (("device", "#D55E00"), ("network", "#0072B2"), ("server", "#009E73")):
        axes.bar(range(len(table)), table[part], bottom=bottom, color=colour, label=part)
        bottom += table[part].to_numpy()
    axes.set_xticks(
        range(len(table)), table["approach"] + ", " + table["bandwidth"], rotation=60, ha="right", fontsize=7
    )
    axes.set_ylabel("delay of a batch [s]")
    axes.legend(frameon=False)
    _save(folder, "fig10b", figure, table)


def _variants(answers: pd.DataFrame, *, regularised: bool) -> dict[str, list[pd.DataFrame]]:
    """The test answers of each classifier's variant, a table a seed."""
    test = answers[(answers["split"] == "test") & (answers["variant"] != "hnd")]
    chosen = test[test["variant"].str.endswith("+reg") == regularised]
    return {
        str(variant): [of_seed for _, of_seed in own.groupby("seed")]
        for variant, own in chosen.groupby("variant", sort=False)
    }


def _against_threshold(own: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At each confidence threshold the fraction answered, and their accuracy (NaN where none is)."""
    confidence, right = own["confidence"].to_numpy(), (own["local_label"] == own["label"]).to_numpy()
    answered = confidence[None] >= GRID[:, None] - 1e-6  # shares of 100 neighbours lie on the grid, rounded
    number = answered.sum(1)
    rights = (answered & right).sum(1)
    return number / len(own), np.divide(rights, number, out=np.full(GRID.size, np.nan), where=number > 0)


def _remote_sent_at(curve: Curve, coverage: NDArray[np.float64]) -> NDArray[np.float64]:
    remote = curve.overall_at(coverage) - coverage * curve.local_answered_at(coverage)
    return np.asarray(remote / (1 - coverage))


def _draw(folder: Path, name: str, table: pd.DataFrame, label: str, *, percent: bool = True) -> None:
    figure, axes = _figure()
    for curve in table:
        style = "--" if str(curve).endswith("+reg") else "-"
        colour = COLOURS.get(str(curve).removesuffix("+reg"))
        axes.plot(table.index, table[curve], style, color=colour, label=str(curve))
    axes.set(xlabel=str(table.index.name), ylabel=label)
    axes.grid(alpha=0.3)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.legend(frameon=False)
    _save(folder, name, figure, table.reset_index())


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    return figure, figure.subplots()


def _save(folder: Path, name: str, figure: Figure, table: pd.DataFrame) -> None:
    for kind in ("png", "pdf"):
        buffer = io.BytesIO()
        # Without its date a PDF is the same bytes each time.
        figure.savefig(buffer, format=kind, dpi=150, metadata={"CreationDate": None} if kind == "pdf" else None)
        files.replace(folder / f"{name}.{kind}", buffer.getvalue())
    files.replace(folder / f"{name}.csv", table.to_csv(index=False).encode())
