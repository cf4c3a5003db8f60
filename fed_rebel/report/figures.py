"""The pictures in `figures/`, a function each."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fed_rebel.report.curves import ClientCurves, reachable_coverage
from fed_rebel.report.picture import (
    FAINT,
    INK,
    LOCAL,
    PRIOR,
    REMOTE,
    Picture,
    canvas,
    gridded,
    in_percent,
    legend_below,
    titled,
)
from fed_rebel.report.record import INFORMED, RunRecord
from fed_rebel.report.rounds import accuracies
from fed_rebel.report.specialisation import local_accuracy, local_share, overlap

SHARES = LinearSegmentedColormap.from_list("shares", ["#e4e9f0", "#9ecae1", "#2b7bba", "#08306b"])
FEW = 30
"""Up to so many clients each is named on its axis."""


def pictures(record: RunRecord, curves: ClientCurves) -> Iterator[Picture]:
    """All pictures of a run; those of local answers only where there is an early classifier."""
    yield label_histograms(record)
    yield label_shares(record)
    if record.labels_early:
        yield gain_against_gini(record)
        yield reachable_coverage_against_gini(record)
        yield coverage_curves(record, curves)
        yield local_answers_by_class(record)
        yield overlap_of_clients(record)
    if len(record.rounds["local_acc"].dropna()) or len(record.rounds["remote_acc"].dropna()):
        yield accuracy_over_rounds(record)


def label_histograms(record: RunRecord) -> Picture:
    """A row a client, a column a class; the colour is the class's share of the client's training images.

    The colour runs with the square root of the share, so that small ones show too.
    """
    shares = record.histograms / record.histograms.sum(axis=1, keepdims=True)
    figure, axes = _matrix(record)
    image = axes.imshow(np.sqrt(shares), cmap=SHARES, vmin=0, aspect="auto", interpolation="nearest")
    axes.set(xlabel="class")
    ticks = [share for share in (0, 0.01, 0.05, 0.2, 0.5, 1) if share <= shares.max()]
    _colour_bar(figure, image, axes, ticks=np.sqrt(ticks).tolist(), labels=[f"{100 * share:.0f} %" for share in ticks])
    client, label = np.nonzero(record.histograms)
    counted = {"images": record.histograms[client, label], "share": shares[client, label]}
    return Picture("label_histograms", figure, _cells(record, client, label).assign(**counted))


def label_shares(record: RunRecord) -> Picture:
    """A bar a client: its classes' shares of its training images, one after the other from the largest.

    A class has one colour in all bars, and its number where it has room.
    """
    counts, classes = record.histograms, record.histograms.shape[1]
    order = np.argsort(-counts, axis=1, kind="stable")
    ends = np.cumsum(np.take_along_axis(counts, order, axis=1), axis=1) / counts.sum(axis=1, keepdims=True)
    # Painted as a bitmap, 1,000 columns wide: a thousand clients would be a hundred thousand bars.
    middles = (np.arange(1000) + 0.5) / 1000
    places = np.stack([np.searchsorted(end, middles, side="right") for end in ends])
    painted = np.take_along_axis(order, np.minimum(places, classes - 1), axis=1)
    figure, axes = _matrix(record)
    colours = colormaps["hsv"]
    image = colours(painted / classes)
    image[..., :3] = 0.6 + 0.4 * image[..., :3]  # pale, so that numbers can be read on it
    edges = np.zeros_like(places, bool)
    edges[:, 1:] = places[:, 1:] != places[:, :-1]
    image[edges] = 1
    axes.imshow(image, extent=(0, 1, len(counts) - 0.5, -0.5), aspect="auto", interpolation="nearest")
    axes.set(xlabel="share of the client's training images, classes by falling share")
    in_percent(axes.xaxis)
    if len(counts) <= FEW:
        starts = np.hstack([np.zeros((len(counts), 1)), ends[:, :-1]])
        for client, rank in zip(*np.nonzero(ends - starts > 0.025), strict=True):
            middle = (starts[client, rank] + ends[client, rank]) / 2
            axes.text(middle, client, str(order[client, rank]), ha="center", va="center", fontsize=7, color=INK)
    client, label = np.nonzero(counts)
    table = _cells(record, client, label).assign(share=counts[client, label] / counts.sum(axis=1)[client])
    table = table.sort_values(["client", "share"], ascending=[True, False], kind="stable")
    return Picture("label_shares", figure, table)


def gain_against_gini(record: RunRecord) -> Picture:
    """A point a client: what overall accuracy is above local accuracy (the gain from the server), and above remote
    accuracy (`gain` in clients.csv), at the calibrated thresholds."""
    numbers = record.clients[["client", "gini", "local_acc", "overall_acc", "gain_from_server", "gain"]]
    figure, (left, right) = canvas(9, 3.8, columns=2, share_y=False)
    for axes, name, colour, marker, title in (
        (left, "gain_from_server", LOCAL, "o", "Gain from the server: overall − local"),  # noqa: RUF001
        (right, "gain", REMOTE, "D", "Gain over sending everything: overall − remote"),  # noqa: RUF001
    ):
        _points(axes, numbers["gini"], 100 * numbers[name], colour, marker)
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.set(xlabel="Gini of the client's labels", ylabel="points")
        titled(axes, title)
    return Picture("gain_against_gini", figure, numbers)


def reachable_coverage_against_gini(record: RunRecord) -> Picture:
    """A point a client: the largest coverage at which its overall accuracy is not below its remote accuracy."""
    numbers = record.clients[["client", "gini"]].assign(reachable_coverage=reachable_coverage(record.queries))
    figure, (axes,) = canvas(6, 3.8)
    _points(axes, numbers["gini"], numbers["reachable_coverage"], REMOTE, "o")
    axes.set(xlabel="Gini of the client's labels", ylim=(-0.03, 1.03))
    in_percent(axes.yaxis)
    titled(axes, "Coverage reachable without losing overall accuracy")
    return Picture("reachable_coverage_against_gini", figure, numbers)


def coverage_curves(record: RunRecord, curves: ClientCurves) -> Picture:
    """Local accuracy of the answered queries and overall accuracy against coverage, by client and mean."""
    figure, (left, right) = canvas(9, 3.8, columns=2)
    own = curves.overall[record.server]
    strength = max(0.08, min(0.45, 4 / len(curves.clients)))
    for axes, lines, colour in ((left, curves.local_answered, LOCAL), (right, own, REMOTE)):
        many = len(curves.clients) > 100  # paths of a thousand curves would make a PDF of many megabytes
        axes.plot(curves.coverage, lines.T, color=colour, alpha=strength, linewidth=0.8, rasterized=many)
    kinds = (
        ("as it answers", curves.overall["plain"], "-", REMOTE),
        (INFORMED[record.informed], curves.overall[record.informed], "--", PRIOR),
    )
    left.plot(curves.coverage, curves.local_answered.mean(axis=0), color=LOCAL, linewidth=2.2, label="mean")
    for name, lines, dash, colour in kinds:
        label = f"mean, server {name}"
        right.plot(curves.coverage, lines.mean(axis=0), color=colour, linewidth=2.2, linestyle=dash, label=label)
    titled(left, "Local accuracy of the answered queries")
    titled(right, "Overall accuracy")
    gridded(left, right)
    for axes in (left, right):
        axes.set(xlabel="coverage", xlim=(0, 1), ylim=(None, 1.01))
        in_percent(axes.xaxis, axes.yaxis)
        legend_below(axes, columns=2)
    numbers = {
        "client": np.repeat(curves.clients, len(curves.coverage)),
        "coverage": np.tile(curves.coverage, len(curves.clients)),
        "local_answered": curves.local_answered.ravel(),
    } | {f"overall_{kind}": lines.ravel() for kind, lines in curves.overall.items()}
    return Picture("coverage_curves", figure, pd.DataFrame(numbers))


def local_answers_by_class(record: RunRecord) -> Picture:
    """A row a client, a column a class: the share of its test queries that the client answers alone, and how many of
    those answers are right, at the calibrated thresholds. Blank where there are no such queries."""
    share, accuracy = local_share(record.queries), local_accuracy(record.queries)
    figure, both = canvas(11, _height(record), columns=2)
    for axes, values, title in (
        (both[0], share, "Answered alone"),
        (both[1], accuracy, "Right among the answered alone"),
    ):
        image = axes.imshow(values, cmap=SHARES, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(xlabel="class")
        titled(axes, title)
    _name_clients(both[0], record)
    _colour_bar(figure, image, both[1], ticks=[0, 0.5, 1], labels=["0 %", "50 %", "100 %"])
    client, label = np.nonzero(~np.isnan(share))
    queries = record.queries
    counted = {
        "test_queries": queries.by_class(np.ones_like(queries.answered))[client, label],
        "answered": queries.by_class(queries.answered)[client, label],
        "answered_share": share[client, label],
        "answered_accuracy": accuracy[client, label],
    }
    return Picture("local_answers_by_class", figure, _cells(record, client, label).assign(**counted))


def overlap_of_clients(record: RunRecord) -> Picture:
    """A row and a column a client: the overlap of what they know, see `specialisation.overlap`."""
    values, names = overlap(record.queries), record.clients["client"].tolist()
    figure, (axes,) = canvas(6.4, 5.4)
    image = axes.imshow(values, cmap=SHARES, vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="client")
    _name_clients(axes, record)
    if len(names) <= FEW:
        axes.set_xticks(range(len(names)), [str(name) for name in names])
    if len(names) <= 12:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value > 0.5 else INK
            text = "" if np.isnan(value) else f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    titled(axes, "Overlap of the classes that clients answer alone and rightly")
    _colour_bar(figure, image, axes, ticks=[0, 0.5, 1], labels=["0", "0.5", "1"])
    table = pd.DataFrame(values, columns=[f"client_{name}" for name in names])
    table.insert(0, "client", names)
    return Picture("overlap_of_clients", figure, table)


def accuracy_over_rounds(record: RunRecord) -> Picture:
    """Mean local, remote and overall accuracy after each evaluated round, and the band from the clients' 10 % to their
    90 % quantile."""
    numbers = accuracies(record.rounds)
    figure, (axes,) = canvas(9, 3.8)
    places = np.arange(len(numbers))
    for name, label, colour, marker, dash in (
        ("local_acc", "local", LOCAL, "o", "-"),
        ("remote_acc", "remote", REMOTE, "s", "--"),
        ("overall_acc", "overall", INK, "D", ":"),
    ):
        if numbers[name].notna().any():
            axes.fill_between(
                places, numbers[f"{name}_low"], numbers[f"{name}_high"], color=colour, alpha=0.13, linewidth=0
            )
            axes.plot(places, numbers[name], color=colour, marker=marker, markersize=5, linestyle=dash, label=label)
    names = [f"{stage} {number}" for stage, number in zip(numbers["stage"], numbers["round"], strict=True)]
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: names[int(x)] if x in places else ""))
    axes.tick_params(axis="x", labelrotation=0 if len(names) <= 6 else 30)
    in_percent(axes.yaxis)
    gridded(axes)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return Picture("accuracy_over_rounds", figure, numbers)


def _points(axes: Axes, x: "pd.Series[float]", y: "pd.Series[float]", colour: str, marker: str) -> None:
    strength = max(0.25, min(0.9, 60 / len(x)))
    axes.plot(x, y, linestyle="", marker=marker, markersize=5, color=colour, alpha=strength, markeredgewidth=0)
    gridded(axes)


def _matrix(record: RunRecord) -> tuple[Figure, Axes]:
    figure, (axes,) = canvas(8, _height(record))
    _name_clients(axes, record)
    return figure, axes


def _height(record: RunRecord) -> float:
    return min(9.0, 1.5 + 0.24 * len(record.clients))


def _name_clients(axes: Axes, record: RunRecord) -> None:
    axes.set(ylabel="client")
    if len(record.clients) <= FEW:
        axes.set_yticks(range(len(record.clients)), [str(client) for client in record.clients["client"]])


def _colour_bar(figure: Figure, image: AxesImage, axes: Axes, *, ticks: list[float], labels: list[str]) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.015, ticks=ticks)
    bar.ax.set_yticklabels(labels)
    bar.ax.tick_params(length=0, labelcolor=FAINT, labelsize=8)
    bar.outline.set_visible(False)


def _cells(record: RunRecord, client: NDArray[np.int64], label: NDArray[np.int64]) -> pd.DataFrame:
    return pd.DataFrame({"client": record.clients["client"].to_numpy()[client], "class": label})
