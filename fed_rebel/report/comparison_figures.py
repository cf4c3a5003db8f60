"""The pictures over several runs, a function each; None where there is nothing to draw.

A colour is a setting of the grid, a line the mean over its seeds, its band runs from the lowest to the highest seed.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fed_rebel.report.columns import Column
from fed_rebel.report.comparison import COLUMNS, RIVALS, Comparison, bands, settings_table
from fed_rebel.report.picture import FAINT, INK, Picture, canvas, gridded, in_percent

# Okabe and Ito's colours can be told apart by colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
MARKERS = "os^Dv<>"
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


def pictures(comparison: Comparison) -> Iterator[Picture]:
    """All pictures of these runs that there is something to draw of."""
    for picture in (
        rivals(comparison),
        figure_8a(comparison),
        figure_8b(comparison),
        *figure_9(comparison),
        gain_over_local(comparison),
        gain_over_remote(comparison),
        coverage_without_loss(comparison),
        calibration(comparison),
        shift(comparison),
    ):
        if picture is not None:
            yield picture


def figure_8a(comparison: Comparison) -> Picture | None:
    """Local accuracy of the answered queries against coverage, a curve a setting."""
    return _curves(comparison, comparison.curves, "local_answered", "local accuracy (answered)", "fig8a")


def figure_8b(comparison: Comparison) -> Picture | None:
    """Overall accuracy against coverage, a curve a setting."""
    return _curves(comparison, comparison.curves, "overall", "overall accuracy", "fig8b")


def figure_9(comparison: Comparison) -> Iterator[Picture | None]:
    """Figure 8a once of k-NN (9a) and once of the diagonal GMC (9b), where both are among the runs."""
    for letter, (kind, rows) in zip("ab", of_kinds(comparison).items(), strict=False):
        label = f"local accuracy (answered), {kind}"
        yield _curves(comparison, rows, "local_answered", label, f"fig9{letter}")


def of_kinds(comparison: Comparison) -> dict[str, pd.DataFrame]:
    """Of each early classifier of figure 9 the rows of `curves`; empty where not both are among the runs."""
    if comparison.curves.empty:
        return {}
    kinds = comparison.curves["setting"].map({name: _kind(comparison, name) for name in comparison.settings})
    rows = {kind: comparison.curves[kinds == kind] for kind in KINDS}
    return {} if any(own.empty for own in rows.values()) else rows


def gain_over_local(comparison: Comparison) -> Picture | None:
    """What the server gives a client, overall minus local accuracy, against its Gini."""
    return _points(comparison, "gain_over_local", "overall - local accuracy [points]")


def gain_over_remote(comparison: Comparison) -> Picture | None:
    """What answering early gives a client, overall minus remote accuracy, against its Gini."""
    return _points(comparison, "gain_over_remote", "overall - remote accuracy [points]")


def coverage_without_loss(comparison: Comparison) -> Picture | None:
    """The largest coverage of a client's test queries at which overall is no lower than remote accuracy."""
    return _points(comparison, "coverage_without_loss", "coverage without loss")


def calibration(comparison: Comparison) -> Picture | None:
    """Calibration error of the confidence against Gini, before (hollow) and after (filled) a temperature."""
    columns = ["calibration_error", "calibration_error_scaled"]
    table = comparison.clients[["run", "setting", "client", "gini", *columns, "temperature"]].dropna()
    if table.empty:
        return None
    figure, (axes,) = _figure()
    for setting, colour, marker in _styles(comparison.settings):
        own = table[table["setting"] == setting]
        for column, face in zip(columns, ("none", colour), strict=True):
            axes.scatter(own["gini"], own[column], s=18, marker=marker, facecolor=face, edgecolor=colour, linewidth=0.9)
        axes.scatter([], [], s=18, marker=marker, color=colour, label=comparison.label(setting))
    axes.set(xlabel="Gini", ylabel="expected calibration error", ylim=(0, None))
    axes.set_title("hollow: as given; filled: with a temperature", loc="left", fontsize=8, color=FAINT)
    return _picture("calibration", figure, table)


def shift(comparison: Comparison) -> Picture | None:
    """What clients do when a share of their queries is of classes outside their shards, with either threshold."""
    if comparison.shift.empty:
        return None
    # Beside a run that has no such queries the numbers of the others are Python objects.
    rows = comparison.shift.astype(dict.fromkeys(["share", *SHIFT], float))
    figure, panels = _figure(3, share_y=False)
    tables = []
    for axes, (column, label) in zip(panels, SHIFT.items(), strict=True):
        for kind, style in (("as calibrated", "-"), ("best for the share", "--")):
            table = bands(rows[rows["kind"] == kind], "share", column)
            tables.append(table.assign(kind=kind, measure=column))
            _lines(axes, comparison, table, "share", style, [comparison.label(s) for s in comparison.settings])
        axes.set(xlabel="queries from classes outside the shard", xlim=(0, 1), ylim=(0, None))
        axes.set_title(label, loc="left", fontsize=9, color=INK)
        in_percent(axes.xaxis, axes.yaxis)
    panels[0].set_ylim(0, 1.01)
    panels[0].plot([], [], color=FAINT, linestyle="--", label="best threshold for the share")
    return _picture("shift", figure, pd.concat(tables))


def rivals(comparison: Comparison) -> Picture:
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
    in_percent(axes.yaxis)
    return _picture("rivals", figure, pd.concat(rows))


def _kind(comparison: Comparison, setting: str) -> str:
    return str(comparison.runs_of(setting)[0].settings["early.kind"])


def _curves(comparison: Comparison, rows: pd.DataFrame, column: str, label: str, name: str) -> Picture | None:
    if rows.empty:
        return None
    table = bands(rows, "coverage", column).dropna()
    figure, (axes,) = _figure()
    _lines(axes, comparison, table, "coverage", "-", [comparison.label(s) for s in comparison.settings])
    axes.set(xlabel="answered locally", ylabel=label, xlim=(0, 1))
    in_percent(axes.xaxis, axes.yaxis)
    return _picture(name, figure, table)


def _points(comparison: Comparison, column: str, label: str) -> Picture | None:
    table = comparison.clients[["run", "setting", "client", "gini", column]].dropna()
    if table.empty:
        return None
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
        in_percent(axes.yaxis)
    return _picture(column, figure, table)


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


def _figure(panels: int = 1, *, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    size = (6.0, 4.2) if panels == 1 else (3.9 * panels, 3.9)
    figure, drawn = canvas(*size, panels, share_y=share_y)
    gridded(*drawn)
    return figure, drawn


def _picture(name: str, figure: Figure, table: pd.DataFrame) -> Picture:
    """With a legend below all panels."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    looks = {"frameon": False, "fontsize": 8, "labelcolor": INK, "ncols": min(3, len(labels))}
    figure.legend(handles, labels, loc="outside lower center", **looks)
    return Picture(name, figure, table)
