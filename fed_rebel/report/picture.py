"""A figure for print: how it looks, and the files that it becomes."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fed_rebel.files import replace

# Okabe and Ito's colours can be told apart by colour-blind readers.
LOCAL, REMOTE, PRIOR = "#D55E00", "#0072B2", "#009E73"
INK, FAINT, GRID = "#22262b", "#6b7280", "#e5e7eb"


@dataclass(frozen=True, eq=False)
class Picture:
    """A matplotlib figure, and the numbers that it shows as a table."""

    name: str
    figure: Figure
    numbers: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Write `<name>.png`, `<name>.pdf` and `<name>.csv`, six digits a number.

        The same picture gives the same bytes.
        """
        for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
            self.figure.set_layout_engine("none")  # it is laid out, which takes a third of the time
            replace(folder / f"{self.name}.{kind}", buffer.getvalue())
        replace(folder / f"{self.name}.csv", self.numbers.to_csv(index=False, float_format="%.6g").encode())


def write_all(pictures: Iterable[Picture], folder: Path) -> None:
    """Write these pictures, and remove those of an earlier report: a name that has a PNG, a PDF and a CSV."""
    names = set()
    for picture in pictures:
        picture.write(folder)
        names.add(picture.name)
    for name in {path.stem for path in folder.glob("*.csv")} - names:
        earlier = [folder / f"{name}.{kind}" for kind in ("png", "pdf", "csv")]
        if all(file.is_file() for file in earlier):
            for file in earlier:
                file.unlink()


def canvas(width: float, height: float, columns: int = 1, *, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure of its own, in inches, without pyplot's global state; and its axes in a row."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=0.08))
    all_axes = list(np.atleast_1d(figure.subplots(1, columns, sharey=share_y)))
    for axes in all_axes:
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=FAINT, labelsize=8, length=0)
        axes.xaxis.label.set(color=FAINT, fontsize=9)
        axes.yaxis.label.set(color=FAINT, fontsize=9)
    return figure, all_axes


def titled(axes: Axes, title: str) -> None:
    """A title over the left end."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)


def gridded(*all_axes: Axes) -> None:
    """Faint lines behind what is drawn."""
    for axes in all_axes:
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)


def in_percent(*axis: Axis) -> None:
    """Fractions written in per cent."""
    for each in axis:
        each.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        each.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def legend_below(axes: Axes, columns: int) -> None:
    """A legend under the axis's label."""
    axes.legend(
        frameon=False, fontsize=8, labelcolor=INK, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.14)
    )
