"""What the page's script works on: the numbers of a run, and its test queries packed to be sent along whole."""

import base64
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fed_rebel.report.columns import AT_THRESHOLD
from fed_rebel.report.curves import ClientCurves, reachable_coverage
from fed_rebel.report.queries import Queries
from fed_rebel.report.record import INFORMED, RunRecord
from fed_rebel.report.rounds import accuracies
from fed_rebel.report.specialisation import local_accuracy, local_share, overlap

Floats = NDArray[np.float64]


def page_data(record: RunRecord, curves: ClientCurves) -> dict[str, Any]:
    """For JSON: fractions where nothing else is said, null where undefined; curves and rounds in per cent.

    `classes`, `overlap` are matrices for `tenthousandths`; `queries` are those of `packed`.
    """
    clients, queries = record.clients, record.queries
    by_class = bool(record.settings.get("exits", {}).get("by_class", False))
    return {
        "clients": clients["client"].tolist(),
        "labelsEarly": record.labels_early,
        "takesInformed": record.server != "plain",
        "counts": record.histograms.tolist(),
        "gini": clients["gini"].tolist(),
        "thresholds": [str(threshold) for threshold in clients["threshold"]],  # JSON has no infinity
        "byClass": [by_class and not pooled for pooled in clients["threshold_pooled"].tolist()],
        "remote": _or_null(clients["remote_acc"]),
        "local": _or_null(clients["local_acc"]),
        "calibrated": {column.key: _or_null(clients[column.key]) for column in AT_THRESHOLD},
        "queries": packed(queries),
        "reachable": reachable_coverage(queries).tolist(),
        "classes": {
            "count": queries.classes,
            "share": tenthousandths(local_share(queries)),
            "accuracy": tenthousandths(local_accuracy(queries)),
        },
        "overlap": tenthousandths(overlap(queries)),
        "curves": {
            "coverage": _percent(curves.coverage),
            "answered": _percent(curves.local_answered),
            "overall": _percent(curves.overall[record.server]),
            "answered_mean": _percent(curves.local_answered.mean(axis=0)),
            "overall_mean": _percent(curves.overall["plain"].mean(axis=0)),
            "informed_mean": _percent(curves.overall[record.informed].mean(axis=0)),
            "informed": INFORMED[record.informed],
        },
        "rounds": _rounds(record),
    }


def packed(queries: Queries) -> dict[str, Any]:
    """The queries as little-endian arrays in base64, 7 1/8 bytes a query before it (10 1/8 with over 256 classes).

    `score` float32 as it was, so that every threshold routes here as it does elsewhere; `label`, `local`, `remote`
    `width` bytes each; `answered` a bit each, the first lowest; `starts` a list.
    """
    width = 1 if queries.classes <= 256 else 2
    labels = {name: getattr(queries, name).astype(f"<u{width}") for name in ("label", "local", "remote")}
    bits = np.packbits(queries.answered, bitorder="little")
    arrays = {"score": queries.score.astype("<f4"), "answered": bits} | labels
    return {"starts": queries.starts.tolist(), "width": width} | {name: _base64(each) for name, each in arrays.items()}


def tenthousandths(fractions: Floats) -> str:
    """Fractions in [0, 1] as little-endian uint16 in base64: 10,000 for 1, 65,535 where undefined."""
    return _base64(np.where(np.isnan(fractions), 65535, np.round(10000 * np.nan_to_num(fractions))).astype("<u2"))


def _rounds(record: RunRecord) -> dict[str, Any]:
    rounds = accuracies(record.rounds)
    names = [f"{stage} {number}" for stage, number in zip(rounds["stage"], rounds["round"], strict=True)]
    columns = [name for name in rounds.columns if name not in ("stage", "round")]
    return {"name": names} | {name: _percent(rounds[name].to_numpy(float)) for name in columns}


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _or_null(values: ArrayLike) -> Any:
    """As a list; null where undefined."""
    values = np.asarray(values, float)
    objects = values.astype(object)
    objects[np.isnan(values)] = None
    return objects.tolist()


def _percent(values: Floats) -> Any:
    """Fractions in per cent, two decimals, as lists; null where undefined."""
    return _or_null(np.round(100 * values, 2))
