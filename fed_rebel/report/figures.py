"""The pictures in `figures/`: label histograms and coverage curves, as PNG."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fed_rebel.report.curves import ClientCurves

# Okabe and Ito's colours can be told apart by colour-blind readers.
LOCAL, REMOTE, PRIOR = "#D55E00", "#0072B2", "#009E73"
INK, FAINT, GRID = "#22262b", "#6b7280", "#e5e7eb"
SHARES = LinearSegmentedColormap.from_list("shares", ["#f6f8fa", "#9ecae1", "#2b7bba", "#08306b"])


def label_histograms_png(histograms: NDArray[np.int64], clients: list[int]) -> bytes:
    """A row a client, a column a class; the colour is the class's share of the client's images.

    histograms [clients, C] counts; the colour runs with the square root of the share: small ones show too.
    """
    shares = histograms / histograms.sum(axis=1, keepdims=True)
    figure, axes = _figure(8, min(9.0, 1.5 + 0.24 * len(clients)))
    image = axes.imshow(np.sqrt(shares), cmap=SHARES, vmin=0, aspect="auto", interpolation="nearest")
    axes.set(xlabel="class", ylabel="client")
    if len(clients) <= 30:
        axes.set_yticks(range(len(clients)), [str(client) for client in clients])
    axes.tick_params(length=0)
    top = shares.max()
    ticks = [share for share in (0, 0.01, 0.05, 0.2, 0.5, 1) if share <= top]
    bar = figure.colorbar(image, ax=axes, pad=0.015, ticks=np.sqrt(ticks).tolist())
    bar.ax.set_yticklabels([f"{100 * share:.0f} %" for share in ticks])
    bar.ax.tick_params(length=0, labelcolor=FAINT, labelsize=8)
    bar.outline.set_visible(False)
    return _png(figure)


def coverage_curves_png(curves: ClientCurves) -> bytes:
    """Local accuracy of the answered queries and overall accuracy against coverage, by client and mean."""
    figure, left = _figure(9, 3.8, columns=2)
    right = figure.axes[1]
    strength = max(0.08, min(0.45, 4 / len(curves.clients)))
    for axes, lines, colour in ((left, curves.local_answered, LOCAL), (right, curves.overall, REMOTE)):
        axes.plot(curves.coverage, lines.T, color=colour, alpha=strength, linewidth=0.8)
        axes.plot(curves.coverage, lines.mean(axis=0), color=colour, linewidth=2.2, label="mean of the clients")
        axes.grid(color=GRID, linewidth=0.7)
        axes.set(xlabel="coverage", xlim=(0, 1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    prior = curves.overall_prior.mean(axis=0)
    right.plot(
        curves.coverage,
        prior,
        color=PRIOR,
        linewidth=2.2,
        linestyle=(0, (4, 2)),
        label="mean, with label prior",
    )
    left.set_title("Local accuracy of the answered queries", loc="left", fontsize=10, color=INK)
    right.set_title("Overall accuracy", loc="left", fontsize=10, color=INK)
    for axes in (left, right):
        axes.set_ylim(top=1.01)
        axes.legend(
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=2,
        )
    return _png(figure)


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Axes]:
    """A figure of its own, without pyplot's global state, and its first axes."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=0.08))
    for axes in np.atleast_1d(figure.subplots(1, columns, sharey=True)):
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=FAINT, labelsize=8, length=0)
        axes.xaxis.label.set(color=FAINT, fontsize=9)
        axes.yaxis.label.set(color=FAINT, fontsize=9)
    return figure, figure.axes[0]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()
