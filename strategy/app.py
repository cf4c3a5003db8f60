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
from fed_rebel.settings import Scalar, Settings
from fed_rebel.training.setup import prepare
from strategy.extras import check_installed
from strategy.rounds import Fault
from strategy.server import Server
from strategy.tracking import tracked

app = ServerApp()
log = logging.getLogger("flwr")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a simulation or a deployment with the settings of `[tool.flwr.app.config]` and `--run-config`.

    The run directory is `FED_REBEL_RUN` where that is set, else a new one under `runs/` in the data directory.
    """
    settings = Settings.from_flat(cast("dict[str, Scalar]", dict(context.run_config)))
    default = data_directory(settings.data.dir or None) / "runs" / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    path = Path(os.environ.get("FED_REBEL_RUN", default))
    check_installed(settings)
    setup = prepare(settings)
    run = RunDirectory.create(path, settings, setup.partition, setup.identity)
    with alone(run.path), tracked(settings, run, _Log()) as watcher:
        Server(settings, run, watcher).federate(grid)
    if spent := privacy(read_rounds(run.path / "rounds.jsonl")):
        log.info(spent)
    log.info("report: %s", write_report(run.path))


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
