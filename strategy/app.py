"""The ServerApp that `flwr run` starts; `fed-rebel simulate` runs the same `Server`."""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fed_rebel.datasets import data_directory
from fed_rebel.report import privacy, read_rounds, write_report
from fed_rebel.runs import RunDirectory, alone
from fed_rebel.settings import Scalar, Settings, SettingsError, first_difference
from fed_rebel.training.setup import prepare
from strategy.extras import check_installed
from strategy.reopen import reopen
from strategy.rounds import Fault
from strategy.server import Server
from strategy.tracking import tracked

app = ServerApp()
log = logging.getLogger("flwr")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a simulation or a deployment with the settings of `[tool.flwr.app.config]` and `--run-config`.

    The run directory is `run`, which goes on where it was begun with the same settings, else `FED_REBEL_RUN` where that
    is set, else a new one under `runs/` in the data directory.
    """
    config = cast("dict[str, Scalar]", dict(context.run_config))
    named = config.pop("run", "") or os.environ.get("FED_REBEL_RUN", "")
    settings = Settings.from_flat(config)
    run = _run(Path(str(named)).expanduser() if named else _new_place(settings), settings)
    with alone(run.path), tracked(settings, run, _Log()) as watcher:
        Server(settings, run, watcher).federate(grid)
    if spent := privacy(read_rounds(run.path / "rounds.jsonl")):
        log.info(spent)
    if (run.path / "predictions.parquet").exists():
        log.info("report: %s", write_report(run.path))
    else:
        kept = settings.report.share
        log.info("run: %s (no report: report.share = '%s' leaves predictions with the clients)", run.path, kept)


def _new_place(settings: Settings) -> Path:
    return data_directory(settings.data.dir or None) / "runs" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")


def _run(path: Path, settings: Settings) -> RunDirectory:
    """The run that was begun there, or a new one. Raises `ValueError` where neither can be."""
    if (path / "settings.toml").is_file():
        run, begun = reopen(path)
        if (key := first_difference(settings.flat(), begun.flat())) is not None:
            here, there = settings.flat()[key], begun.flat()[key]
            raise SettingsError(f"{path}: was begun with {key} = {there!r}, not {here!r}; name another place for it")
        log.info("going on with %s", path)
        return run
    check_installed(settings)
    setup = prepare(settings)
    return RunDirectory.create(path, settings, setup.partition, setup.identity)


class _Log:
    """Tells Flower's log what a progress bar tells a person."""

    def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
        log.info("round %d of %d, %s", number + 1, rounds, stage)

    def replied(self) -> None:
        pass

    def fault(self, round: int, fault: Fault) -> None:
        log.warning("round %d: client %d left out: %s", round + 1, fault.client, fault.reason)

    def round_ended(self, rows: list[dict[str, Any]]) -> None:
        measured = [row["overall_acc"] for row in rows if "overall_acc" in row]
        if measured:
            log.info("mean overall accuracy: %.1f %%", 100 * sum(measured) / len(measured))
