"""The report over several runs: one HTML page, the table of clients and the figures."""

import html
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs

from fed_rebel.files import replace
from fed_rebel.report.columns import Column
from fed_rebel.report.comparison import (
    COLUMNS,
    RIVALS,
    Comparison,
    bands,
    compare,
    effect_of_skew,
    paired,
    settings_table,
    sources,
)
from fed_rebel.report.comparison_figures import COLOURS, RIVAL_STYLES, SHIFT, of_kinds, pictures
from fed_rebel.report.comparison_template import FIGURE, PAGE, STYLE
from fed_rebel.report.grid import Run, is_run
from fed_rebel.report.page import write_report
from fed_rebel.report.picture import write_all
from fed_rebel.report.statistics import Estimate
from fed_rebel.settings import SettingsError


def write_comparison(runs: Sequence[Run], out: Path) -> Comparison:
    """Write `report.html`, `clients.csv` and `figures/` over these runs into `out`, and give back what they show.

    Also writes the reports of runs that have none: the page links to them. Raises ValueError, see `compare`, and where
    `out` is a run, which has files of the same names.
    """
    if is_run(out):
        raise SettingsError(f"--out {out}: is a run; name another place for the report over several")
    comparison = compare(runs)
    for run in comparison.runs:
        if not (run.path / "report.html").is_file():
            write_report(run.path)
    replace(out / "clients.csv", comparison.clients.to_csv(index=False).encode())
    write_all(pictures(comparison), out / "figures")
    replace(out / "report.html", page(comparison, out).encode())
    return comparison


def page(comparison: Comparison, out: Path) -> str:
    """The page as text; its links to the runs' own pages are relative to `out`."""
    figures = list(_figures(comparison))
    return PAGE.substitute(
        name=html.escape(out.resolve().name),
        facts=html.escape(_facts(comparison)),
        sentence=html.escape(_minus(sentence(comparison))),
        head=_head(COLUMNS),
        rows="\n".join(_setting_rows(comparison, COLUMNS)),
        rivals_head=_head(RIVALS),
        rivals="\n".join(_setting_rows(comparison, RIVALS)),
        statements="\n".join(f"<li>{html.escape(_minus(told))}</li>" for told in statements(comparison)),
        key="\n".join(_key(comparison)),
        figures="\n".join(FIGURE.substitute(id=f["id"], title=f["title"], note=f["note"]) for f in figures),
        runs="\n".join(_run_links(comparison, out)),
        data=json.dumps(figures).replace("<", "\\u003c"),
        style=STYLE,
        plotly=get_plotlyjs(),
    )


def sentence(comparison: Comparison) -> str:
    """What the runs show, in one plain sentence: where most and where least is gained over sending everything."""
    means = {name: values for name, (_, values) in settings_table(comparison).items()}
    told = {name: values for name, values in means.items() if not math.isnan(values["local_acc"].value)}
    if not told:
        return "No run has an early classifier, so every query is sent."
    order = sorted(told, key=lambda name: told[name]["gain"].value)

    def about(name: str) -> str:
        values = told[name]
        gain, coverage = values["gain"].value, values["coverage"].value
        return (
            f"{100 * gain:+.1f} points at {100 * coverage:.0f} % coverage and a mean Gini of {values['gini'].value:.2f}"
        )

    best, worst = order[-1], order[0]
    if best == worst:
        return f"Over sending everything, clients gain {about(best)}."
    return f"Over sending everything, clients gain most with {best}, {about(best)}; least with {worst}, {about(worst)}."


def statements(comparison: Comparison) -> Iterator[str]:
    """The statistics in words, a sentence each; numbers in brackets are 95 % intervals."""
    for rest, found_of_skew in effect_of_skew(comparison):
        if math.isnan(found_of_skew.clients.value):
            continue
        direction = "gain more" if found_of_skew.clients.value > 0 else "gain less"
        who = f"{rest}: clients" if rest else "Clients"
        runs = found_of_skew.runs
        over_runs = "" if math.isnan(runs.low) else f"; over the means of {runs.n} runs {_interval(runs, '+.2f')}"
        within = found_of_skew.within
        among = "" if math.isnan(within.value) else f"; among the clients of one setting {_interval(within, '+.2f')}"
        yield (
            f"{who} with more skew {direction} over sending everything: rank correlation of Gini and gain "
            f"{found_of_skew.clients.value:+.2f} over {found_of_skew.clients.n} clients{over_runs}{among}."
        )
    for name, found_in in sources(comparison):
        if math.isnan(found_in.stacking.value):
            continue
        yield (
            f"{name}: local training adds {_points_of(found_in.training)} to the private start. "
            f"The label shares give the server {_points_of(found_in.prior)}, stacking "
            f"{_points_of(found_in.stacking)} more. Overall accuracy with all of that is "
            f"{_points_of(found_in.best)} above the server that knows the label shares."
        )
    for column, what in (("overall_acc", "Overall accuracy"), ("local_acc", "Local accuracy")):
        for earlier, later, found in paired(comparison, column):
            if math.isnan(found.difference.value):
                continue
            certain = "" if math.isnan(found.p) else f", paired t test p = {found.p:.2g}"
            yield (
                f"{what}, {later} minus {earlier}, on the same partitions: "
                f"{_interval(found.difference, '+.1f', 100)} points over "
                f"{_count(found.difference.n, 'partition')}{certain}."
            )
    errors = comparison.clients.dropna(subset=["calibration_error"])
    for setting, own in errors.groupby("setting", sort=False):
        before, after = own["calibration_error"].mean(), own["calibration_error_scaled"].mean()
        yield (
            f"{setting}: the confidence is off by {100 * before:.1f} points, on average over clients (expected "
            f"calibration error), and by {100 * after:.1f} with a temperature fitted on validation queries."
        )


def _facts(comparison: Comparison) -> str:
    seeds = {run.seed for run in comparison.runs}
    data = {Path(str(run.settings["data.name"])).stem for run in comparison.runs}
    parts = [" and ".join(sorted(data)), _count(len(comparison.runs), "run"), _count(len(seeds), "seed")]
    return " · ".join([*parts, _count(len(comparison.clients), "client")])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)


def _head(columns: Sequence[Column]) -> str:
    headings = ("setting", "seeds", *(column.heading for column in columns))
    return "".join(f'<th scope="col"><button type="button">{heading}</button></th>' for heading in headings)


def _setting_rows(comparison: Comparison, columns: Sequence[Column]) -> Iterator[str]:
    for place, (setting, (seeds, means)) in enumerate(settings_table(comparison, columns).items()):
        colour = COLOURS[place % len(COLOURS)]
        cells = [
            f'<th scope="row" data-value="{place}"><i style="background:{colour}"></i>{html.escape(setting)}</th>',
            f'<td data-value="{seeds}">{seeds}</td>',
        ]
        for column in columns:
            mean = means[column.key]
            spread = "" if math.isnan(mean.half_width) else f"<small> ± {column.text_of_sd(mean.half_width)}</small>"
            cells.append(f'<td data-value="{mean.value}">{_minus(column.text(mean.value))}{spread}</td>')
        yield f"<tr>{''.join(cells)}</tr>"


def _key(comparison: Comparison) -> Iterator[str]:
    """The colours of all figures, as buttons that hide a setting and show it again."""
    for place, setting in enumerate(comparison.settings):
        colour = COLOURS[place % len(COLOURS)]
        yield (
            f'<button type="button" aria-pressed="true" data-place="{place}"><i style="background:{colour}"></i>'
            f"{html.escape(comparison.label(setting))}</button>"
        )


def _run_links(comparison: Comparison, out: Path) -> Iterator[str]:
    for run in comparison.runs:
        link = Path(os.path.relpath(run.path / "report.html", out.resolve())).as_posix()
        yield f'<li><a href="{html.escape(link, quote=True)}">{html.escape(run.name)}</a></li>'


def _figures(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """What the page draws: each figure with its axes and its lines or points, by setting."""
    band = "A line is the mean over seeds, its band runs from the lowest to the highest seed."
    yield _figure(
        "rivals",
        "What the gain is held against",
        "Mean over seeds with its 95 % interval.",
        ("", ""),
        ("", " %"),
        _rivals(comparison),
    ) | {"ticks": list(comparison.settings)}
    if not comparison.curves.empty:
        for name, column, title in (
            ("fig8a", "local_answered", "Local accuracy of the answered queries"),
            ("fig8b", "overall", "Overall accuracy"),
        ):
            lines = _lines(comparison, comparison.curves, "coverage", column)
            yield _figure(name, title, band, ("answered locally", " %"), ("", " %"), lines)
    for letter, (kind, rows) in zip("ab", of_kinds(comparison).items(), strict=False):
        lines = _lines(comparison, rows, "coverage", "local_answered")
        title = f"Local accuracy of the answered queries, {kind}"
        yield _figure(f"fig9{letter}", title, band, ("answered locally", " %"), ("", " %"), lines)
    for column, title, note, unit in (
        ("gain_over_local", "What the server gives", "Overall minus local accuracy. A point is a client.", " points"),
        (
            "gain_over_remote",
            "What early answers give",
            "Overall minus remote accuracy. A point is a client.",
            " points",
        ),
        (
            "coverage_without_loss",
            "Coverage without loss",
            "The largest coverage of a client's test queries that costs no overall accuracy.",
            " %",
        ),
    ):
        if points := list(_points(comparison, column)):
            yield _figure(column, title, note, ("Gini", ""), ("", unit), points)
    errors = [
        {**points, "dash": hollow}
        for column, hollow in (("calibration_error", True), ("calibration_error_scaled", False))
        for points in _points(comparison, column)
    ]
    if errors:
        note = "Of the confidence on test queries. Hollow: as given. Filled: with a temperature."
        yield _figure("calibration", "Expected calibration error", note, ("Gini", ""), ("", " %"), errors)
    if not comparison.shift.empty:
        for column, label in SHIFT.items():
            lines = [
                {**line, "dash": dashed}
                for kind, dashed in (("as calibrated", False), ("best for the share", True))
                for line in _lines(comparison, comparison.shift[comparison.shift["kind"] == kind], "share", column)
            ]
            note = "Solid: the thresholds as calibrated. Dashed: the best for this share of outside queries."
            title = f"When the world changes: {label}"
            yield _figure(f"shift_{column}", title, note, ("queries from outside the shard", " %"), ("", " %"), lines)


def _figure(
    id: str, title: str, note: str, x: tuple[str, str], y: tuple[str, str], series: list[dict[str, Any]]
) -> dict[str, Any]:
    return {"id": id, "title": title, "note": note, "x": x, "y": y, "series": series}


def _rivals(comparison: Comparison) -> list[dict[str, Any]]:
    """Beside each other at each setting's place."""
    table = settings_table(comparison, [column for column, _ in RIVAL_STYLES])
    series = []
    for place, (column, colour) in enumerate(RIVAL_STYLES):
        means = [found[column.key] for _, found in table.values()]
        at: dict[str, Any] = {"x": [setting + 0.1 * (place - len(RIVAL_STYLES) // 2) for setting in range(len(means))]}
        at |= {"y": [_number(mean.value) for mean in means], "error": [_number(mean.half_width) for mean in means]}
        about = {"name": column.heading, "colour": colour, "place": place, "dash": False, "about": list(table)}
        series.append(about | at | {"kind": "dots"})
    return series


def _number(value: float) -> float | None:
    """In per cent, for JSON; null where undefined."""
    return None if math.isnan(value) else round(100 * value, 2)


def _lines(comparison: Comparison, rows: pd.DataFrame, x: str, y: str) -> list[dict[str, Any]]:
    table = bands(rows, x, y).dropna()
    return [
        _series(comparison, setting, place)
        | {"kind": "line", "x": _percent(own[x])}
        | {name: _percent(own[column]) for name, column in (("y", "mean"), ("low", "low"), ("high", "high"))}
        for place, setting in enumerate(comparison.settings)
        if not (own := table[table["setting"] == setting]).empty
    ]


def _points(comparison: Comparison, column: str) -> Iterator[dict[str, Any]]:
    table = comparison.clients.dropna(subset=[column])
    for place, setting in enumerate(comparison.settings):
        own = table[table["setting"] == setting]
        if not own.empty:
            about = (own["run"] + ", client " + own["client"].astype(str)).tolist()
            at = {"kind": "points", "x": np.round(own["gini"], 4).tolist(), "y": _percent(own[column]), "about": about}
            yield _series(comparison, setting, place) | at


def _series(comparison: Comparison, setting: str, place: int) -> dict[str, Any]:
    return {"name": comparison.label(setting), "colour": COLOURS[place % len(COLOURS)], "place": place, "dash": False}


def _percent(values: "pd.Series[float]") -> list[float]:
    """Fractions in per cent, for JSON."""
    return [round(100 * float(value), 2) for value in values]


def _interval(estimate: Estimate, form: str, scale: float = 1.0) -> str:
    value, low, high = (format(scale * number, form) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]" if not math.isnan(estimate.low) else value


def _points_of(estimate: Estimate) -> str:
    return f"{_interval(estimate, '+.1f', 100)} points"


def _minus(text: str) -> str:
    """Minus signs in front of numbers as a minus, hyphens in names left alone."""
    for before in (" ", "[", "("):
        for digit in "0123456789":
            text = text.replace(f"{before}-{digit}", f"{before}\N{MINUS SIGN}{digit}")
    return "\N{MINUS SIGN}" + text[1:] if text[:1] == "-" else text
