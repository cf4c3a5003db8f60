"""Experiment trackers: means over the clients, round by round, in TensorBoard or MLflow.

They hold what `rounds.jsonl` holds: where a run goes on, a tracker first catches up with the rounds that are finished.
"""

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from fed_rebel import files
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings, SettingsError
from strategy.rounds import Fault
from strategy.server import Rows, Watcher

NOT_METRICS = ("round", "client", "samples", "seconds")


class Tracker(Protocol):
    """Where the numbers of the rounds go."""

    def log(self, round: int, metrics: dict[str, float]) -> None:
        """Write the numbers of a finished round; one that is there already stays as it is."""

    def close(self) -> None:
        """The run ended, or was stopped."""


def make_experiment(settings: Settings) -> None:
    """MLflow's database and experiment, where the settings name it and they are not there yet.

    For a sweep, before its runs start: several that made them at once would be in each other's way. Raises
    `SettingsError` where MLflow cannot be used.
    """
    if settings.tracking != "mlflow":
        return
    from mlflow import MlflowClient

    try:
        _experiment(MlflowClient())
    except Exception as error:
        raise SettingsError(f"tracking = 'mlflow': {_one_line(error)}; see MLFLOW_TRACKING_URI") from None


@contextmanager
def tracked(settings: Settings, run: RunDirectory, watcher: Watcher) -> Iterator[Watcher]:
    """The watcher, beside it a tracker where the settings name one, as long as the run goes on."""
    if settings.tracking == "none":
        yield watcher
        return
    tracking = Tracking(
        settings.tracking, lambda: TensorBoard(run) if settings.tracking == "tensorboard" else MLflow(run, settings)
    )
    try:
        for _, rows in groupby(run.rows(), lambda row: int(row["round"])):
            tracking.round_ended(list(rows))
        yield Watchers((watcher, tracking))
    finally:
        tracking.close()


def means(rows: Rows) -> dict[str, float]:
    """Of a round's losses and measurements the means over the clients that have them; of bytes the sum."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, int | float) and name not in NOT_METRICS:
                values.setdefault(name, []).append(value)
    return {name: sum(v) if name.startswith("bytes_") else sum(v) / len(v) for name, v in values.items()}


class TensorBoard:
    """Scalars under `tensorboard/` in the run directory, written anew where a run goes on."""

    def __init__(self, run: RunDirectory) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))

    def log(self, round: int, metrics: dict[str, float]) -> None:
        """A scalar a number."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, round)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """A run of the experiment `fed-rebel`, with the settings as its parameters, where MLFLOW_TRACKING_URI says.

    `mlflow.txt` in the run directory holds its id, so that a run that goes on is the same there.
    """

    def __init__(self, run: RunDirectory, settings: Settings) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._run, self._client, kept = run, MlflowClient(), run.path / "mlflow.txt"
        if kept.exists():
            self._id = kept.read_text(encoding="utf-8")
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(_experiment(self._client), run_name=run.path.name).info.run_id
            parameters = [Param(name, str(value)) for name, value in settings.flat().items()]
            self._client.log_batch(self._id, params=parameters)
            files.replace(kept, self._id.encode())
        self._there = {metric.step for metric in self._client.get_metric_history(self._id, "bytes_down")}

    def log(self, round: int, metrics: dict[str, float]) -> None:
        """All numbers in one request."""
        from mlflow.entities import Metric

        if round not in self._there:
            now = int(1000 * time.time())
            values = [Metric(name, value, now, round) for name, value in metrics.items()]
            self._client.log_batch(self._id, metrics=values)

    def close(self) -> None:
        """Say how it ended."""
        self._client.set_terminated(self._id, "FINISHED" if self._run.finished else "KILLED")


class Tracking:
    """A watcher that hands each finished round to a tracker.

    The training does not end where a tracker fails: that is told once, as a warning, and it is left alone from then on.
    """

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        with self._told_of():
            self._tracker = start()

    def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
        """Nothing to write yet."""

    def replied(self) -> None:
        """Nothing to write yet."""

    def fault(self, round: int, fault: Fault) -> None:
        """`rounds.jsonl` tells it."""

    def round_ended(self, rows: Rows) -> None:
        """Write the round."""
        with self._told_of():
            if self._tracker is not None:
                self._tracker.log(rows[0]["round"], means(rows))

    def close(self) -> None:
        """The run ended, or was stopped."""
        with self._told_of():
            if self._tracker is not None:
                self._tracker.close()

    @contextmanager
    def _told_of(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._tracker = None
            told = f"tracking = '{self._name}' failed ({_one_line(error)}): it gets no more of this run"
            warnings.warn(told, stacklevel=4)


@dataclass(frozen=True)
class Watchers:
    """Several watchers, told one after the other."""

    all: Sequence[Watcher]

    def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
        """Tell all."""
        for watcher in self.all:
            watcher.round_began(number, rounds, stage, messages)

    def replied(self) -> None:
        """Tell all."""
        for watcher in self.all:
            watcher.replied()

    def fault(self, round: int, fault: Fault) -> None:
        """Tell all."""
        for watcher in self.all:
            watcher.fault(round, fault)

    def round_ended(self, rows: Rows) -> None:
        """Tell all."""
        for watcher in self.all:
            watcher.round_ended(rows)


def _experiment(client: Any) -> str:
    """The id of the experiment, which is made where it is not there."""
    found = client.get_experiment_by_name("fed-rebel")
    return str(found.experiment_id if found else client.create_experiment("fed-rebel"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
