"""The HTML page of a run: one file, nothing loaded from elsewhere."""

import html
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
from plotly.offline import get_plotlyjs

from fed_rebel.files import replace
from fed_rebel.report.columns import (
    ALL_QUERIES,
    AT_THRESHOLD,
    PAGE_COLUMNS,
    SHARD,
    Column,
    count,
    index,
    percent,
    points,
)
from fed_rebel.report.curves import ClientCurves, client_curves
from fed_rebel.report.figures import pictures
from fed_rebel.report.page_data import page_data
from fed_rebel.report.page_plots import PLOTS
from fed_rebel.report.page_script import SCRIPT
from fed_rebel.report.page_style import STYLE
from fed_rebel.report.page_template import PAGE
from fed_rebel.report.picture import write_all
from fed_rebel.report.record import INFORMED, RunRecord, read_run
from fed_rebel.report.rounds import privacy
from fed_rebel.report.summary import DESCRIPTIONS, summarise
from fed_rebel.report.table import POOLED


def write_report(run: Path) -> Path:
    """Write `report.html` and `figures/` into the directory of a finished run; returns the page's path.

    Raises ValueError, one line, where a file or a column of the run is missing.
    """
    record = read_run(run)
    curves = client_curves(record.predictions)
    write_all(pictures(record, curves), run / "figures")
    replace(run / "report.html", page(record, curves).encode())
    return run / "report.html"


def page(record: RunRecord, curves: ClientCurves) -> str:
    """The page as text."""
    over_clients = summarise(record.clients)
    return PAGE.substitute(
        name=html.escape(record.name),
        facts=html.escape(" · ".join(_facts(record))),
        fingerprint=html.escape(record.fingerprint),
        settings=html.escape(tomli_w.dumps(record.settings)),
        sentence=sentence(over_clients["mean"]),
        newcomers=_newcomers(record),
        tiles="\n".join(_tiles(record, over_clients["mean"])),
        groups="".join(_group_cells()),
        head="".join(
            f'<th scope="col" data-key="{column.key}"><button type="button">{column.heading}</button></th>'
            for column in PAGE_COLUMNS
        ),
        rows="\n".join(_client_rows(record.clients)),
        foot="\n".join(_foot_rows(over_clients)),
        pooled=f"<br>{POOLED}." if record.clients["threshold_pooled"].any() else "",
        corrected="" if record.server == "plain" else f" (the server {INFORMED[record.server]})",
        without="" if record.labels_early else " hidden",
        summary="\n".join(_summary_rows(over_clients)),
        traffic=_traffic(record.rounds),
        privacy=privacy(record.rounds),
        data=json.dumps(page_data(record, curves), separators=(",", ":")).replace("<", "\\u003c"),
        style=STYLE,
        plotly=get_plotlyjs(),
        plots=PLOTS,
        script=SCRIPT,
    )


def sentence(means: "pd.Series[float]") -> str:
    """What the run shows, in one plain sentence, from the means over clients that `summarise` gives."""
    if math.isnan(means["local_acc"]):
        return (
            f"There is no early classifier: at a mean Gini of {index(means['gini'])} the clients send every query, "
            f"and {_percent(means['overall_acc'])} are answered rightly."
        )
    over_remote = _compared(means["gain"], "sending everything")
    over_local = _compared(means["gain_from_server"], "answering everything alone")
    return (
        f"At a mean Gini of {index(means['gini'])} the clients answer {_percent(means['coverage'])} of their queries "
        f"alone, {over_remote}, and {over_local}."
    )


def _newcomers(record: RunRecord) -> str:
    """What became of those that were met when training was over; empty where there are none."""
    if record.newcomers.empty:
        return ""
    means = summarise(record.newcomers)["mean"]
    local = "" if math.isnan(means["local_acc"]) else f"{_percent(means['local_acc'])} alone, "
    who = "1 newcomer" if len(record.newcomers) == 1 else f"{len(record.newcomers)} newcomers"
    return (
        f"<p>{who}, met when training was over, at a mean Gini of {index(means['gini'])}: {local}"
        f"{_percent(means['remote_acc'])} by the server, {_percent(means['overall_acc'])} together "
        "(<code>newcomers.csv</code>; in none of the figures).</p>"
    )


def _compared(gain: float, other: str) -> str:
    gain = round(100 * gain, 1)
    if gain == 0:
        return f"are neither better nor worse off than by {other}"
    return f"gain {gain:.1f} points over {other}" if gain > 0 else f"lose {-gain:.1f} points against {other}"


def _percent(fraction: float) -> str:
    return f"{percent(fraction)}\N{NO-BREAK SPACE}%"


def _facts(record: RunRecord) -> Iterator[str]:
    partition = record.settings["partition"]
    if record.settings.get("method", "rebel") != "rebel":
        yield f"method {record.settings['method']}"
    yield str(record.settings["data"]["name"])
    yield f"partition {partition['kind']}"
    if partition["kind"] in ("by-client", "by-class"):
        yield f"alpha {partition['alpha']:g}"
    if partition["kind"] == "shards":
        yield f"{partition['classes']} classes a client"
    if partition["quantity"] != "equal":
        yield f"{partition['quantity']} sizes"
    yield "1 client" if len(record.clients) == 1 else f"{len(record.clients)} clients"
    yield f"seed {record.settings['seed']}"


def _tiles(record: RunRecord, means: "pd.Series[float]") -> Iterator[str]:
    """Those with a key follow the threshold."""
    corrected = means["remote_acc_prior"]
    if record.server == "plain":
        other = f"{percent(corrected)} if it {INFORMED['prior']}"
    else:
        other = f"{percent(means['remote_acc_plain'])} as the server answers"
    trained = means["local_acc"] - means["local_acc_start"]
    for key, heading, value, note in (
        ("", "Gini", index(means["gini"]), "mean skew of the labels"),
        ("", "Local", _shown(percent, means["local_acc"], " %"), f"{_shown(points, trained)} points by training"),
        ("", "Remote", _shown(percent, means["remote_acc"], " %"), other),
        ("overall_acc", "Overall", _shown(percent, means["overall_acc"], " %"), "of the whole"),
        ("coverage", "Coverage", _shown(percent, means["coverage"], " %"), "answered on the device"),
        ("local_acc_answered", "Local, answered", _shown(percent, means["local_acc_answered"], " %"), "of these"),
        (
            "gain_from_server",
            "Gain from the server",
            _shown(points, means["gain_from_server"]),
            "overall - local, points",
        ),
        ("gain", "Gain over remote", _shown(points, means["gain"]), "overall - remote, points"),
    ):
        moving = f' data-key="{key}"' if key else ""
        yield f"<div><dt>{heading}</dt><dd{moving}>{_minus(value)}</dd><dd>{_minus(note)}</dd></div>"


def _shown(write: Any, value: float, unit: str = "") -> str:
    text = Column("", "", write).text(value)
    return text if math.isnan(value) else text + unit


def _group_cells() -> Iterator[str]:
    for name, columns in (("", (None, *SHARD)), ("at the threshold", AT_THRESHOLD), ("on all queries", ALL_QUERIES)):
        yield (
            f'<th colspan="{len(columns)}" scope="colgroup">{name}</th>'
            if name
            else f'<td colspan="{len(columns)}"></td>'
        )


def _client_rows(clients: pd.DataFrame) -> Iterator[str]:
    for place, (_, row) in enumerate(clients.iterrows()):
        cells = []
        for column in PAGE_COLUMNS[1:]:
            text = column.text(row[column.key])
            star = "*" if column.key == "coverage" and row["threshold_pooled"] else ""
            cells.append(_cell(star + text, row[column.key]))
        client = int(row["client"])
        opener = f'<th scope="row" data-value="{client}"><button type="button">{client}</button></th>'
        yield f'<tr data-place="{place}">{opener}{"".join(cells)}</tr>'


def _foot_rows(over_clients: pd.DataFrame) -> Iterator[str]:
    for heading, statistic, write in (("mean", "mean", Column.text), ("sd", "sd", Column.text_of_sd)):
        values = over_clients[statistic]
        cells = (_cell(write(column, values[column.key]), values[column.key]) for column in PAGE_COLUMNS[1:])
        yield f'<tr><th scope="row">{heading}</th>{"".join(cells)}</tr>'


def _summary_rows(over_clients: pd.DataFrame) -> Iterator[str]:
    for name, row in over_clients.iterrows():
        column = Column(str(name), "", _writer(str(name)))
        cells = (
            _cell(column.text_of_sd(value) if statistic == "sd" else column.text(value), value)
            for statistic, value in row.items()
        )
        yield f'<tr><th scope="row">{html.escape(str(name))}</th>{"".join(cells)}</tr>'


def _writer(metric: str) -> Any:
    if metric == "gini":
        return index
    if metric in DESCRIPTIONS:
        return count
    return points if metric.startswith("gain") else percent


def _cell(text: str, value: float) -> str:
    return f'<td data-value="{value}">{_minus(text)}</td>'


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _traffic(rounds: pd.DataFrame) -> str:
    up, down = rounds["bytes_up"].sum() / 2**20, rounds["bytes_down"].sum() / 2**20
    return f"In all {up:,.1f} MiB went up to the server and {down:,.1f} MiB down to the clients." if up or down else ""
