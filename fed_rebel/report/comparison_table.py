"""The table of a comparison for the terminal, 80 columns wide where the settings' names are short."""

import math

from rich import box
from rich.table import Table

from fed_rebel.report.comparison import COLUMNS, Comparison, settings_table


def comparison_table(comparison: Comparison) -> Table:
    """A row a setting of the grid: seeds, then mean over seeds of the plain mean over clients, ± its 95 % interval."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, caption_justify="left")
    table.add_column("setting", overflow="fold")
    for heading in ("seeds", *(column.heading for column in COLUMNS)):
        table.add_column(heading, justify="right", no_wrap=True)
    for setting, (seeds, means) in settings_table(comparison).items():
        cells = []
        for column in COLUMNS:
            mean = means[column.key]
            # Gini follows from the partition: its interval says least.
            told = not math.isnan(mean.half_width) and column.key != "gini"
            cells.append(column.text(mean.value) + f" ±{column.text_of_sd(mean.half_width)}" * told)
        table.add_row(setting, str(seeds), *cells)
    table.caption = "means over clients, ± the 95 % interval over seeds\naccuracies and coverage in %, gain in points"
    return table
