"""The table of clients for the terminal, 80 columns wide."""

import pandas as pd
from rich import box
from rich.table import Table

from fed_rebel.report.columns import COLUMNS
from fed_rebel.report.summary import summarise

SHOWN = 20
POOLED = "* threshold calibrated on the validation images of all clients together"


def clients_table(clients: pd.DataFrame) -> Table:
    """A row a client (the first 20) of `clients.csv`, then mean and standard deviation of all clients.

    Accuracies and coverage in per cent, gain in percentage points, both with one decimal.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, caption_justify="left")
    for column in COLUMNS:
        table.add_column(column.heading, justify="right", vertical="bottom", no_wrap=True)
    for _, row in clients.head(SHOWN).iterrows():
        cells = {column.key: column.text(row[column.key]) for column in COLUMNS}
        if row["threshold_pooled"]:
            cells["coverage"] = f"*{cells['coverage']}"
        table.add_row(*cells.values())
    notes = ["accuracies and coverage in %, gain in points"]
    if len(clients) > SHOWN:
        table.add_row("...")
        more = f"... {len(clients) - SHOWN} more in clients.csv; mean and sd are of all {len(clients)}"
        notes.insert(0, more)
    if clients["threshold_pooled"].any():
        notes.append(POOLED)
    table.caption = "\n".join(notes)
    over_clients = summarise(clients)
    means, sds = over_clients["mean"], over_clients["sd"]
    table.add_section()
    table.add_row("mean", *(column.text(means[column.key]) for column in COLUMNS[1:]), style="bold")
    table.add_row("sd", *(column.text_of_sd(sds[column.key]) for column in COLUMNS[1:]), style="dim")
    return table
