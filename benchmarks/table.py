"""The table: a row a figure, each a ratio to something that was measured in the same run."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

VERSIONS = ("fed-rebel", "torch", "numpy", "pandas", "scipy", "flwr", "ray", "flwr-datasets")


@dataclass(frozen=True)
class Goal:
    """What ours is to be at most: so many times theirs, or theirs and so much more, or so much in any case."""

    text: str
    times: float = 0.0
    more: float = 0.0

    def most(self, theirs: float) -> float:
        """The limit, in the unit of the two."""
        return self.times * theirs + self.more


def times(ratio: float) -> Goal:
    """At most so many times theirs."""
    return Goal(f"<= {ratio:g}", times=ratio)


def faster(ratio: float) -> Goal:
    """At least so many times faster than theirs."""
    return Goal(f"<= 1/{ratio:g}", times=1 / ratio)


def more(seconds: float) -> Goal:
    """At most so many seconds more than theirs."""
    return Goal(f"+ {seconds:g} s", times=1, more=seconds)


def within(seconds: float) -> Goal:
    """At most so many seconds, whatever theirs is."""
    return Goal(f"<= {seconds:g} s", more=seconds)


@dataclass(frozen=True)
class Row:
    """A figure."""

    name: str
    """What is measured, with its size."""
    against: str
    """What it is compared with, measured in the same run."""
    goal: Goal | None = None
    """None where the figure is there to explain another."""
    ours: float | None = None
    """Seconds, or megabytes; None where it was not measured."""
    theirs: float | None = None
    unit: str = "s"
    note: str = ""
    """What to know of the figure: why there is none, or what it does not say."""

    @property
    def ratio(self) -> float | None:
        """Ours in theirs: below 1 where ours is the smaller."""
        return None if self.ours is None or self.theirs is None else self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        """Whether the goal is; None where there is none, or no figure."""
        if self.goal is None or self.ours is None or self.theirs is None:
            return None
        return self.ours <= self.goal.most(self.theirs)

    def to_json(self) -> dict[str, Any]:
        """All of it, for a machine to read."""
        return asdict(self) | {"goal": self.goal.text if self.goal else None, "ratio": self.ratio, "met": self.met}


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cpus,
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
    }


def markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The table as text, with the machine under it."""
    head = ("what", "ours", "against", "theirs", "ratio", "goal", "met")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        goal = row.goal.text if row.goal else "-"
        met = {True: "yes", False: "no", None: "-"}[row.met]
        ratio = "-" if row.ratio is None else f"{row.ratio:.3g}"
        cells = (row.name, _amount(row.ours, row.unit), row.against, _amount(row.theirs, row.unit), ratio, goal, met)
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {row.name}: {row.note}" for row in rows if row.note)]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines += ["", f"{about['cores']} cores of {about['processor']} (load {about['load']} at the start), "]
    lines += [f"{about['system']}, Python {about['python']}, {versions}."]
    return "\n".join(lines) + "\n"


def write(folder: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """`table.md` and `table.json` in a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(markdown(rows, about), encoding="utf-8")
    everything = {"machine": about, "rows": [row.to_json() for row in rows]}
    (folder / "table.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit != "s":
        return f"{value:.0f} {unit}"
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    amx = " with AMX" if cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text() else ""
    return (named[0].partition(":")[2].strip() if named else platform.machine()) + amx


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
