"""The figures over several runs, one function each: as PNG, PDF and the CSV of what is drawn.

A colour is a setting of the grid, a line the mean over its seeds, its band runs from the lowest to the highest seed.
Each function gives back whether there was something to draw.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fed_rebel.report.columns import Column
from fed_rebel.report.comparison import COLUMNS, RIVALS, Comparison, bands, settings_table

# Okabe and Ito's colours can be told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = "os^Dv<>"
INK, FAINT, GRID = "#22262b", "#6b7280", "#e5e7eb"
KINDS = ("knn", "gmc-diag")
"""The early classifiers of figures 9a and 9b."""
SHIFT = {
    "answered": "answered alone",
    "wrong_alone": "from outside, answered alone, wrong",
    "overall": "overall accuracy",
}

_BY_KEY = {column.key: column for column in (*COLUMNS, *RIVALS)}
RIVAL_STYLES: tuple[tuple[Column, str], ...] = (
    (_BY_KEY["majority_acc"], "#7F7F7F"),
    (_BY_KEY["local_acc_start"], "#E69F00"),
    (_BY_KEY["local_acc"], "#D55E00"),
    (_BY_KEY["remote_acc"], "#56B4E9"),
    (_BY_KEY["overall_acc_plain"], "#0072B2"),
    (_BY_KEY["remote_acc_prior"], "#CC79A7"),
    (_BY_KEY["overall_acc_stacked"], "#009E73"),
)
"""What figure `rivals` shows, by rising knowledge."""


def figure_8a(comparison: Comparison, folder: Path) -> bool:
    """Local accuracy of the answered queries against coverage, a curve a setting."""
    return _curves(comparison, comparison.curves, "local_answered", "local accuracy (answered)", folder, "fig8a")


def figure_8b(comparison: Comparison, folder: Path) -> bool:
    """Overall accuracy against coverage, a curve a setting."""
    return _curves(comparison, comparison.curves, "overall", "overall accuracy", folder, "fig8b")


def figure_9(comparison: Comparison, folder: Path) -> bool:
    """Figure 8a once of k-NN (9a) and once of the diagonal GMC (9b), where both are among the runs."""
    by_kind = of_kinds(comparison)
    for letter, (kind, rows) in zip("ab", by_kind.items(), strict=False):
        _curves(comparison, rows, "local_answered", f"local accuracy (answered), {kind}", folder, f"fig9{letter}")
    return bool(by_kind)


def of_kinds(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Of each early classifier of figure 9 the rows of `curves`; empty where not both are among the runs."""
    if comparison.curves.empty:
        return {}
    kinds = comparison.curves["setting"].map({name: _kind(comparison, name) for name in comparison.settings})
    rows = {kind: comparison.curves[kinds == kind] for kind in KINDS}
    return {} if any(own.empty for own in rows.values()) else rows


def gain_over_local(comparison: Comparison, folder: Path) -> bool:
    """What the server gives a client, overall minus local accuracy, against its Gini."""
    return _points(comparison, "gain_over_local", "overall - local accuracy [points]", folder)


def gain_over_remote(comparison: Comparison, folder: Path) -> bool:
    """What answering early gives a client, overall minus remote accuracy, against its Gini."""
    return _points(comparison, "gain_over_remote", "overall - remote accuracy [points]", folder)


def coverage_without_loss(comparison: Comparison, folder: Path) -> bool:
    """The largest coverage of a client's test queries at which overall is no lower than remote accuracy."""
    return _points(comparison, "coverage_without_loss", "coverage without loss", folder)


def calibration(comparison: Comparison, folder: Path) -> bool:
    """Calibration error of the confidence against Gini, before (hollow) and after (filled) a temperature."""
    columns = ["calibration_error", "calibration_error_scaled"]
    table = comparison.clients[["run", "setting", "client", "gini", *columns, "temperature"]].dropna()
    if table.empty:
        return False
    figure, (axes,) = _figure()
    for setting, colour, marker in _styles(comparison.settings):
        own = table[table["setting"] == setting]
        for column, face in zip(columns, ("none", colour), strict=True):
            axes.scatter(own["gini"], own[column], s=18, marker=marker, facecolor=face, edgecolor=colour, linewidth=0.9)
        axes.scatter([], [], s=18, marker=marker, color=colour, label=comparison.label(setting))
    axes.set(xlabel="Gini", ylabel="expected calibration error", ylim=(0, None))
    axes.set_title("hollow: as given; filled: with a temperature", loc="left", fontsize=8, color=FAINT)
    _save(folder, "calibration", figure, table)
    return True


def shift(comparison: Comparison, folder: Path) -> bool:
    """What clients do when a share of their queries is of classes outside their shards, with either threshold."""
    if comparison.shift.empty:
        return False
    figure, panels = _figure(3, share_y=False)
    tables = []
    for axes, (column, label) in zip(panels, SHIFT.items(), strict=True):
        for kind, style in (("as calibrated", "-"), ("best for the share", "--")):
            table = bands(comparison.shift[comparison.shift["kind"] == kind], "share", column)
            tables.append(table.assign(kind=kind, measure=column))
            _lines(axes, comparison, table, "share", style, [comparison.label(s) for s in comparison.settings])
        axes.set(xlabel="queries from classes outside the shard", xlim=(0, 1), ylim=(0, None))
        axes.set_title(label, loc="left", fontsize=9, color=INK)
        _percent(axes.xaxis, axes.yaxis)
    panels[0].set_ylim(0, 1.01)
    panels[0].plot([], [], color=FAINT, linestyle="--", label="best threshold for the share")
    _save(folder, "shift", figure, pd.concat(tables))
    return True


def rivals(comparison: Comparison, folder: Path) -> bool:
    """Each setting's accuracies beside those of its rivals: mean over seeds and 95 % interval."""
    columns = [column for column, _ in RIVAL_STYLES]
    table = settings_table(comparison, columns)
    figure, (axes,) = _figure()
    rows = []
    for place, ((column, colour), marker) in enumerate(zip(RIVAL_STYLES, MARKERS, strict=True)):
        means = [found[column.key] for _, found in table.values()]
        x = np.arange(len(means)) + 0.1 * (place - len(columns) // 2)
        value, half = [mean.value for mean in means], [mean.half_width for mean in means]
        axes.errorbar(x, value, half, fmt=marker, color=colour, markersize=6, linewidth=1, label=column.heading)
        rows.append(pd.DataFrame({"setting": list(table), "what": column.key, "mean": value, "half_width": half}))
    axes.set_xticks(range(len(table)), [comparison.label(setting) for setting in table])
    axes.set(ylabel="accuracy", ylim=(0, 1.01), xlim=(-0.6, len(table) - 0.4))
    axes.tick_params(axis="x", labelrotation=0 if len(table) < 4 else 30)
    _percent(axes.yaxis)
    _save(folder, "rivals", figure, pd.concat(rows))
    return True


FIGURES: tuple[Callable[[Comparison, Path], bool], ...] = (
    rivals,
    figure_8a,
    figure_8b,
    figure_9,
    gain_over_local,
    gain_over_remote,
    coverage_without_loss,
    calibration,
    shift,
)


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)


def _kind(comparison: Comparison, setting: str) -> str:
    return str(comparison.runs_of(setting)[0].settings["early.kind"])


def _curves(comparison: Comparison, rows: pd.DataFrame, column: str, label: str, folder: Path, name: str) -> bool:
    if rows.empty:
        return False
    table = bands(rows, "coverage", column).dropna()
    figure, (axes,) = _figure()
    _lines(axes, comparison, table, "coverage", "-", [comparison.label(s) for s in comparison.settings])
    axes.set(xlabel="answered locally", ylabel=label, xlim=(0, 1))
    _percent(axes.xaxis, axes.yaxis)
    _save(folder, name, figure, table)
    return True


def _points(comparison: Comparison, column: str, label: str, folder: Path) -> bool:
    table = comparison.clients[["run", "setting", "client", "gini", column]].dropna()
    if table.empty:
        return False
    figure, (axes,) = _figure()
    in_points = "points" in label
    if in_points:
        axes.axhline(0, color=FAINT, linewidth=0.8)
    for setting, colour, marker in _styles(comparison.settings):
        own = table[table["setting"] == setting]
        if not own.empty:
            y = 100 * own[column] if in_points else own[column]
            axes.scatter(
                own["gini"],
                y,
                s=22,
                marker=marker,
                color=colour,
                alpha=0.75,
                linewidth=0,
                label=comparison.label(setting),
            )
    axes.set(xlabel="Gini", ylabel=label)
    if not in_points:
        _percent(axes.yaxis)
    _save(folder, column, figure, table)
    return True


def _lines(axes: Axes, comparison: Comparison, table: pd.DataFrame, x: str, style: str, labels: Sequence[str]) -> None:
    for (setting, colour, _), label in zip(_styles(comparison.settings), labels, strict=True):
        own = table[table["setting"] == setting]
        if not own.empty:
            axes.plot(own[x], own["mean"], style, color=colour, linewidth=1.8, label=label if style == "-" else None)
            axes.fill_between(own[x], own["low"], own["high"], color=colour, alpha=0.15, linewidth=0)


def _styles(settings: Sequence[str]) -> list[tuple[str, str, str]]:
    """Each setting's colour and marker; with more settings than colours both come round again, out of step."""
    return [
        (setting, COLOURS[n % len(COLOURS)], MARKERS[(n + n // len(COLOURS)) % len(MARKERS)])
        for n, setting in enumerate(settings)
    ]


def _percent(*axes: object) -> None:
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))  # type: ignore[attr-defined]


def _figure(panels: int = 1, *, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6, 4.2) if panels == 1 else (3.9 * panels, 3.9), layout="constrained")
    drawn = list(np.atleast_1d(figure.subplots(1, panels, sharey=share_y)))
    for axes in drawn:
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=FAINT, labelsize=8, length=0)
        axes.xaxis.label.set(color=FAINT, fontsize=9)
        axes.yaxis.label.set(color=FAINT, fontsize=9)
    return figure, drawn


def _save(folder: Path, name: str, figure: Figure, table: pd.DataFrame) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        loc="outside lower center",
        ncols=min(3, len(labels)),
    )
    for kind in ("png", "pdf"):
        buffer = io.BytesIO()
        # Without its date a PDF is the same bytes each time.
        figure.savefig(buffer, format=kind, dpi=160, metadata={"CreationDate": None} if kind == "pdf" else None)
        replace_file(folder / f"{name}.{kind}", buffer.getvalue())
    replace_file(folder / f"{name}.csv", table.to_csv(index=False).encode())
