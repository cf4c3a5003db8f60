"""A sweep: the runs of a grid, each in a process of its own, some at once."""

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import tomli_w

from fed_rebel import files
from fed_rebel.launch.clients_at_once import cores
from fed_rebel.launch.grid import Grid
from fed_rebel.launch.pretrain import make_ready
from fed_rebel.launch.progress import ProgressDisplay
from fed_rebel.launch.simulation import begin
from fed_rebel.report.grid import flat_settings, is_run, read_settings
from fed_rebel.runs import RunDirectory, alone
from fed_rebel.settings import Scalar, Settings, SettingsError, first_difference
from fed_rebel.training.setup import deal_data
from strategy.extras import check_installed
from strategy.plan import plan
from strategy.tracking import make_experiment

USUALLY_AT_ONCE = 2
PATIENCE = 10.0
"""Seconds for a run to stop in."""
_HEAD = "# A sweep of fed-rebel: a run for each combination of these values, in the directories beside this file.\n\n"


def swept_in(out: Path) -> list[str]:
    """The keys that the sweep in this directory varies; none where there is no sweep."""
    recorded = _recorded(out)
    return [] if recorded is None else list(recorded["grid"])


def sweep(grid: Grid, out: Path, display: ProgressDisplay, *, runs_at_once: int | None = None) -> dict[str, str]:
    """Bring every run of the grid to its end in `out`, and give back why each run that failed did, by its name.

    A finished run is skipped, one that was begun goes on, one that failed is tried again. All settings are checked,
    then base models and pooled warm starts are trained one after another, each once, then the runs start:
    `runs_at_once` of them, or as many as `share_of_cores` gives. Raises `ValueError` where a run's settings or data are
    wrong, or `out` holds a sweep with another base, or one that is still at work.
    """
    with _alone_in(out):
        _check_same_base(grid, out)
        waiting = _unfinished(grid, out)
        for settings in waiting.values():
            check_installed(settings)
            deal_data(settings)
        if waiting:
            make_experiment(grid.base)
        at_once, shares = share_of_cores(list(waiting.values()), runs_at_once)
        waiting = dict(zip(waiting, shares, strict=True))
        # What trains nothing first: what is wrong with it is told before anything is trained.
        for settings in sorted(waiting.values(), key=_trains_first):
            make_ready(settings, display)
        _record(grid, out)
        failed = _begin(waiting, out, display)
        todo = {name: settings for name, settings in waiting.items() if name not in failed}
        return failed | _run_all(todo, out, at_once, display)


def share_of_cores(runs: Sequence[Settings], at_once: int | None) -> tuple[int, list[Settings]]:
    """How many runs go on at once, and the runs with the engine that each gets.

    A run takes `engine.clients_at_once` times `engine.threads` cores. Where the settings leave clients_at_once open,
    the cores are divided over the runs at once: two where there are cores for two, if not said otherwise. Where they
    leave engine.kind open, a run that trains one client at a time is inline: Ray would have nothing to do at once.
    """
    if not runs:
        return 1, []
    room = max(1, cores() // max(run.engine.threads for run in runs))
    fixed = max(run.engine.clients_at_once for run in runs) or 1
    at_once = min(at_once or min(USUALLY_AT_ONCE, max(1, room // fixed)), len(runs))
    return at_once, [_with_engine(run, max(1, room // at_once)) for run in runs]


def _with_engine(run: Settings, share: int) -> Settings:
    clients = run.engine.clients_at_once or min(share, run.partition.clients)
    kind = run.engine.kind
    if "kind" not in run.engine.model_fields_set:
        kind = "inline" if clients == 1 else "ray"
    return Settings.from_flat(run.flat() | {"engine.kind": kind, "engine.clients_at_once": clients})


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Be the only sweep here; a directory into which nothing came goes again."""
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        try:
            yield
        finally:
            if not any(out.iterdir()):
                out.rmdir()


def _recorded(out: Path) -> dict[str, Any] | None:
    path = out / "sweep.toml"
    if not path.exists():
        return None
    try:
        recorded = tomllib.loads(path.read_text(encoding="utf-8"))
        grid, base = dict(recorded["grid"]), dict(recorded["base"])
        if single := [key for key, values in grid.items() if not isinstance(values, list)]:
            raise TypeError(f"[grid] {single[0]} = {grid[single[0]]!r} is no list")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{path}: damaged ({' '.join(str(error).split())}); restore it or name another --out"
        ) from None
    return {"grid": grid, "base": base}


def _check_same_base(grid: Grid, out: Path) -> None:
    if is_run(out):
        raise SettingsError(f"--out {out}: is a run; name another place for a sweep")
    if (recorded := _recorded(out)) is None:
        return
    here, there = grid.base.flat(), flat_settings(recorded["base"])
    if (key := first_difference(here | {"seed": 0}, there | {"seed": 0})) is not None:
        raise SettingsError(
            f"--out {out}: is a sweep with {key} = {there.get(key)!r}, here it is {here.get(key)!r}; "
            f"give the same, sweep over it (--set '{key}=[{here.get(key)}]'), or name another place"
        )


def _record(grid: Grid, out: Path) -> None:
    recorded = _recorded(out)
    values: dict[str, list[Scalar]] = recorded["grid"] if recorded else {}
    for key, found in grid.values.items():
        values[key] = list(dict.fromkeys([*values.get(key, []), *found]))
    text = _HEAD + tomli_w.dumps({"grid": values, "base": grid.base.model_dump()})
    files.replace(out / "sweep.toml", text.encode())


def _unfinished(grid: Grid, out: Path) -> dict[str, Settings]:
    """The runs of the grid that are still to do; one that was begun in another directory of the sweep goes on there."""
    held = {path.parent.name: read_settings(path.parent) for path in sorted(out.glob("[!.]*/settings.toml"))}
    todo = {}
    for name, settings in grid.runs.items():
        flat = settings.flat()
        if name in held and (key := first_difference(flat, held[name])) is not None:
            raise SettingsError(
                f"{out / name}: is a run with {key} = {held[name].get(key)!r}, here it is {flat.get(key)!r}; "
                "name another --out"
            )
        begun = [there for there, other in held.items() if first_difference(flat, other) is None]
        if not any((out / there / "clients.csv").is_file() for there in begun):
            todo[name if name in begun or not begun else begun[0]] = settings
    return todo


def _trains_first(settings: Settings) -> tuple[bool, bool]:
    return settings.base.weights == "train", settings.warm_start.weights == "pooled"


def _begin(waiting: Mapping[str, Settings], out: Path, display: ProgressDisplay) -> dict[str, str]:
    """Make the directories of runs that have none; why a run that was begun cannot go on, by name."""
    failed = {}
    for name, settings in waiting.items():
        path = out / name
        if is_run(path):
            continue
        try:
            begin(settings, path, display)
        except ValueError as error:
            failed[name] = str(error)
            display.run_failed(name, failed[name])
    return failed


@dataclass(frozen=True)
class _Working:
    """A run at work."""

    name: str
    path: Path
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]
    began_at: int
    """Where in its log this try begins."""
    rounds: int

    @classmethod
    def start(cls, name: str, settings: Settings, out: Path) -> "_Working":
        log = (out / "logs" / f"{name}.log").open("ab+")
        # Its settings.toml holds the share of the cores that it was begun with.
        engine = [settings.engine.kind, str(settings.engine.clients_at_once)]
        command = [sys.executable, "-m", "fed_rebel.launch.sweep_run", str(out / name), *engine]
        # Of a session of its own: Ctrl-C reaches the sweep alone, which then stops its runs.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        return cls(name, out / name, process, log, log.seek(0, os.SEEK_END), len(plan(settings)))

    def stop(self) -> None:
        """Its standard input's end is the sign."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()

    @property
    def remark(self) -> str:
        """Its name and the round it is in."""
        return f"{self.name} {min(RunDirectory(self.path).rounds_done + 1, self.rounds)}/{self.rounds}"

    def ended(self) -> str | None:
        """Why it failed; None where it did not."""
        self.log.seek(self.began_at)
        said = [line.strip() for line in self.log.read().decode(errors="replace").splitlines() if line.strip()]
        self.log.close()
        status = self.process.returncode
        if status == 0:
            return None
        return f"killed by signal {-status}" if status < 0 else said[-1] if said else f"exit status {status}"


def _run_all(runs: Mapping[str, Settings], out: Path, at_once: int, display: ProgressDisplay) -> dict[str, str]:
    """Run these to their end, `at_once` at a time; why each run that failed did."""
    (out / "logs").mkdir(exist_ok=True)
    failed: dict[str, str] = {}
    working: list[_Working] = []
    waiting, total = list(runs), len(runs)
    with display.training("runs", total) as told:
        try:
            while waiting or working:
                while waiting and len(working) < at_once:
                    name = waiting.pop(0)
                    working.append(_Working.start(name, runs[name], out))
                told(total - len(waiting) - len(working), ", ".join(run.remark for run in working))
                time.sleep(0.2)
                for run in [run for run in working if run.process.poll() is not None]:
                    working.remove(run)
                    if (reason := run.ended()) is not None:
                        failed[run.name] = reason
                        display.run_failed(run.name, f"{reason} (logs/{run.name}.log)")
        finally:
            for run in working:
                run.stop()
    return failed
