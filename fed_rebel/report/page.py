"""The HTML page of a run: one file, nothing loaded from elsewhere."""

import html
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from fed_rebel.report.columns import COLUMNS, Column, count, index, percent, points
from fed_rebel.report.curves import ClientCurves, client_curves
from fed_rebel.report.figures import coverage_curves_png, label_histograms_png
from fed_rebel.report.page_template import PAGE
from fed_rebel.report.record import RunRecord, read_run
from fed_rebel.report.rounds import mean_accuracies
from fed_rebel.report.summary import DESCRIPTIONS, summarise
from fed_rebel.report.table import POOLED


def write_report(run: Path) -> Path:
    """Write `report.html` and `figures/*.png` into the directory of a finished run; returns the page's path.

    Raises ValueError, one line, where a file or a column of the run is missing.
    """
    record = read_run(run)
    curves = client_curves(record.predictions)
    (run / "figures").mkdir(exist_ok=True)
    histograms = label_histograms_png(record.histograms, record.clients["client"].tolist())
    _replace(run / "figures" / "label_histograms.png", histograms)
    _replace(run / "figures" / "coverage_curves.png", coverage_curves_png(curves))
    _replace(run / "report.html", page(record, curves).encode())
    return run / "report.html"


def page(record: RunRecord, curves: ClientCurves) -> str:
    """The page as text."""
    over_clients = summarise(record.clients)
    return PAGE.substitute(
        name=html.escape(record.name),
        facts=html.escape(" · ".join(_facts(record))),
        fingerprint=html.escape(record.fingerprint),
        sentence=sentence(over_clients["mean"]),
        tiles="\n".join(_tiles(over_clients["mean"])),
        head="".join(f'<th scope="col"><button type="button">{column.heading}</button></th>' for column in COLUMNS),
        rows="\n".join(_client_rows(record.clients)),
        foot="\n".join(_foot_rows(over_clients)),
        pooled=f"<br>{POOLED}." if record.clients["threshold_pooled"].any() else "",
        summary="\n".join(_summary_rows(over_clients)),
        traffic=_traffic(record.rounds),
        data=json.dumps(_data(record, curves)).replace("<", "\\u003c"),
        plotly=get_plotlyjs(),
    )


def sentence(means: pd.Series) -> str:
    """What the run shows, in one plain sentence, from the means over clients that `summarise` gives."""
    gain = round(100 * means["gain"], 1)
    if gain > 0:
        outcome = f"gain {gain:.1f} points over"
    elif gain < 0:
        outcome = f"lose {-gain:.1f} points against"
    else:
        outcome = "are neither better nor worse off than by"
    coverage = f"{percent(means['coverage'])}\N{NO-BREAK SPACE}%"
    return (
        f"At a mean Gini of {index(means['gini'])} the clients answer {coverage} of their queries alone "
        f"and {outcome} sending everything."
    )


def _facts(record: RunRecord) -> Iterator[str]:
    partition = record.settings["partition"]
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


def _tiles(means: pd.Series) -> Iterator[str]:
    trained = means["local_acc"] - means["local_acc_start"]
    for heading, value, note in (
        ("Gini", index(means["gini"]), "mean skew of the labels"),
        ("Local", percent(means["local_acc"]) + " %", f"{points(trained)} points by training"),
        ("Local at start", percent(means["local_acc_start"]) + " %", "before any training"),
        ("Remote", percent(means["remote_acc"]) + " %", "everything sent"),
        ("Remote + prior", percent(means["remote_acc_prior"]) + " %", "server knows the label shares"),
        ("Overall", percent(means["overall_acc"]) + " %", "at the calibrated thresholds"),
        ("Coverage", percent(means["coverage"]) + " %", "answered on the device"),
        (
            "Gain",
            points(means["gain"]),
            f"points; {points(means['gain_prior'])} if the server knows the prior",
        ),
    ):
        yield f"<div><dt>{heading}</dt><dd>{_minus(value)}</dd><dd>{_minus(note)}</dd></div>"


def _client_rows(clients: pd.DataFrame) -> Iterator[str]:
    for _, row in clients.iterrows():
        cells = [_cell(column.text(row[column.key]), row[column.key]) for column in COLUMNS]
        if row["threshold_pooled"]:
            coverage = [column.key for column in COLUMNS].index("coverage")
            cells[coverage] = cells[coverage].replace(">", ">*", 1)
        yield f"<tr>{''.join(cells)}</tr>"


def _foot_rows(over_clients: pd.DataFrame) -> Iterator[str]:
    for heading, statistic, write in (("mean", "mean", Column.text), ("sd", "sd", Column.text_of_sd)):
        values = over_clients[statistic]
        cells = (_cell(write(column, values[column.key]), values[column.key]) for column in COLUMNS[1:])
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


def _data(record: RunRecord, curves: ClientCurves) -> dict[str, Any]:
    """What the page's figures are drawn from."""
    means = summarise(record.clients)["mean"]
    rounds = mean_accuracies(record.rounds)
    shares = record.histograms / record.histograms.sum(axis=1, keepdims=True)
    return {
        "clients": record.clients["client"].tolist(),
        "counts": record.histograms.tolist(),
        "shares": _percent(shares),
        "curves": {
            "clients": list(curves.clients),
            "coverage": _percent(curves.coverage),
            "answered": _percent(curves.local_answered),
            "overall": _percent(curves.overall),
            "answered_mean": _percent(curves.local_answered.mean(axis=0)),
            "overall_mean": _percent(curves.overall.mean(axis=0)),
            "prior_mean": _percent(curves.overall_prior.mean(axis=0)),
        },
        "calibrated": {
            "coverage": _percent(record.clients["coverage"].to_numpy(float)),
            "overall": _percent(record.clients["overall_acc"].to_numpy(float)),
            "mean": _percent(means[["coverage", "overall_acc"]].to_numpy(float)),
        },
        "rounds": {
            "name": [f"{stage} {number}" for stage, number in zip(rounds["stage"], rounds["round"], strict=True)],
            "local": _percent(rounds["local_acc"].to_numpy(float)),
            "remote": _percent(rounds["remote_acc"].to_numpy(float)),
            "overall": _percent(rounds["overall_acc"].to_numpy(float)),
        },
    }


def _percent(values: NDArray[np.float64]) -> Any:
    """Fractions in per cent, as lists for JSON; null where undefined."""
    rounded = np.round(100 * values, 2).astype(object)
    rounded[np.isnan(values)] = None
    return rounded.tolist()


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)
