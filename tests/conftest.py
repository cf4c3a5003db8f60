"""What the tests share: a tiny data set that can be learnt, and federated runs of it in this process."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read when torch's and the other libraries' thread pools are made, here and in every process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import Message
from flwr.clientapp import ClientApp

import fed_rebel.launch  # noqa: F401 - sets Flower's environment before Flower is imported
from clients.app import app as client_app
from fed_rebel.launch.clients_at_once import clients_at_once
from fed_rebel.launch.inline import InlineGrid
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings
from fed_rebel.training.setup import prepare
from strategy.plan import plan
from strategy.rounds import Fault, RunFailed
from strategy.server import Server

torch.set_num_threads(1)
# How long an example takes says how busy the machine is, and what is imported the first time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

CLASSES = 5
MINUTES = 100
"""Seconds from which on a test begins first."""

AfterRound = Callable[[int, RunDirectory], None]


def pytest_collection_modifyitems(items):
    """Slow tests last, of these the longest first, so that workers end together: `slow(80)` takes about 80 seconds.

    What takes minutes, most of them waiting, begins at once beside the others.
    """

    def place(item):
        slow = item.get_closest_marker("slow")
        seconds = 0 if slow is None else next(iter(slow.args), 10)
        return 0 < seconds < MINUTES, -seconds

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def data_directory(tmp_path_factory):
    """A data directory of the session's own, where converted data and trained base models are kept."""
    directory = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FED_REBEL_DATA", str(directory))
        yield directory


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """An .npz of five classes: noise with a bright stripe at the class's place, in the class's colour."""
    rng = np.random.default_rng(0)

    def split(each):
        labels = rng.permutation(np.repeat(np.arange(CLASSES), each))
        images = rng.integers(0, 80, (len(labels), 32, 32, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[6 * label : 6 * label + 6, :, label % 3] += 120
        return images, labels

    (x_train, y_train), (x_test, y_test) = split(100), split(10)
    path = tmp_path_factory.mktemp("tiny") / "tiny.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture(scope="session")
def tiny_changes(tiny):
    """The settings of a run of seconds, dotted: every stage once, three clients of 24 images."""
    return {
        "data.name": str(tiny),
        "partition.alpha": 1.0,
        "partition.clients": 3,
        "partition.samples": 24,
        "base.weights": "train",
        "base.epochs": 1,
        "base.batch_size": 32,
        "early.components": 2,
        "rounds.warm_start": 1,
        "rounds.distill": 1,
        "rounds.finetune": 1,
        "engine.kind": "inline",
        "engine.clients_at_once": 1,
    }


@pytest.fixture(scope="session")
def tiny_settings(tiny_changes):
    """Those settings with changes on top: `tiny_settings({"head1": "frozen"})`."""
    return lambda changes=None: Settings.from_flat(tiny_changes | (changes or {}))


class RecordingGrid(InlineGrid):
    """Keeps every message, in the order in which the server sent and got them; `shuffled`, replies of a round come all
    at once, in an order drawn anew each time."""

    def __init__(
        self,
        settings: Settings,
        shuffled: bool = False,
        app: ClientApp = client_app,
        node_configs: Iterable[dict[str, Any]] = (),
    ) -> None:
        super().__init__(app, settings.partition.clients, clients_at_once(settings), settings.engine.timeout)
        for context, config in zip(self._contexts.values(), node_configs, strict=False):
            context.node_config = config
        self.messages: list[Message] = []
        self._shuffled = np.random.default_rng() if shuffled else None
        self._held: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.messages += messages
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        if self._shuffled is not None:
            self._held += replies
            everything = len(self._held) == len(list(message_ids))
            replies = [self._held[i] for i in self._shuffled.permutation(len(self._held))] if everything else []
            self._held = [] if everything else self._held
        self.messages += replies
        return replies

    def close(self) -> None:
        super().close()
        for call in list(self._working.values()):
            call.thread.join()  # in this process a run may go on at once


@dataclass
class Listener:
    """A watcher that keeps the faults it hears of, and does what a test wants on a reply or after a round."""

    run: RunDirectory
    after_round: AfterRound
    on_reply: Callable[[], None]
    faults: list[tuple[int, Fault]] = field(default_factory=list)

    def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
        pass

    def replied(self) -> None:
        self.on_reply()

    def fault(self, round: int, fault: Fault) -> None:
        self.faults.append((round, fault))

    def round_ended(self, rows: list[dict[str, Any]]) -> None:
        self.after_round(rows[0]["round"], self.run)


@dataclass(frozen=True)
class Federated:
    """What a try to run what is left of a run came to."""

    settings: Settings
    run: RunDirectory
    messages: list[Message]
    faults: list[tuple[int, Fault]]
    ended_by: BaseException | None
    """What ended it before its time."""


def _go_on(
    run: RunDirectory,
    settings: Settings,
    after_round: AfterRound = lambda *_: None,
    on_reply: Callable[[], None] = lambda: None,
    shuffled: bool = False,
    app: ClientApp = client_app,
    node_configs: Iterable[dict[str, Any]] = (),
) -> Federated:
    grid, ended_by = RecordingGrid(settings, shuffled, app, node_configs), None
    listener = Listener(run, after_round, on_reply)
    try:
        Server(settings, run, listener).federate(grid)
    except (KeyboardInterrupt, RunFailed) as error:
        ended_by = error
    finally:
        grid.close()
    return Federated(settings, run, grid.messages, listener.faults, ended_by)


@pytest.fixture(scope="session")
def go_on():
    """Run what is left of a run on the inline engine: `go_on(run, settings, after_round, on_reply, app, node_configs)`.

    `app` is what runs on the clients, `node_configs` what their nodes are started with. `after_round(number, run)` and
    `on_reply()` may do anything; a KeyboardInterrupt of theirs stops the run.
    """
    return _go_on


@pytest.fixture(scope="session")
def stop_in_and_after_every_round():
    """Go on with a new run to its last round, stopped twice in each: at its second reply, and once it is kept."""

    def stop(*_):
        raise KeyboardInterrupt

    def at_the_second_reply():
        replies = iter(range(1, 100))
        return lambda: stop() if next(replies) == 2 else None

    def go(run: RunDirectory, settings: Settings) -> None:
        for number in range(len(plan(settings))):
            in_the_round = _go_on(run, settings, on_reply=at_the_second_reply())
            assert isinstance(in_the_round.ended_by, KeyboardInterrupt)
            assert run.rounds_done == number
            after_the_round = _go_on(run, settings, after_round=stop)
            assert isinstance(after_the_round.ended_by, KeyboardInterrupt)
            assert run.rounds_done == number + 1
            assert not run.finished

    return go


@pytest.fixture(scope="session")
def federate():
    """A whole run on the inline engine: `federate(settings, path, after_round, shuffled)`."""

    def run(
        settings: Settings, path: Path, after_round: AfterRound = lambda *_: None, shuffled: bool = False
    ) -> Federated:
        setup = prepare(settings)
        directory = RunDirectory.create(path, settings, setup.partition, setup.identity)
        federated = _go_on(directory, settings, after_round, shuffled=shuffled)
        assert federated.ended_by is None
        return federated

    return run


@pytest.fixture(scope="session")
def copies(tmp_path_factory):
    """Where the run directory of `finished` lies as it was after each of its rounds: `copies / "2"`."""
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="session")
def finished(federate, tiny_settings, tmp_path_factory, copies):
    """One finished run of the tiny settings; to be read, not changed."""

    def copy(number: int, run: RunDirectory) -> None:
        shutil.copytree(run.path, copies / str(number), symlinks=True)

    return federate(tiny_settings(), tmp_path_factory.mktemp("finished") / "run", copy)


@pytest.fixture
def stopped(finished, copies, tmp_path):
    """A run directory as `finished` left it after a round, to go on with: `stopped(2)`."""

    def at(number: int) -> RunDirectory:
        shutil.copytree(copies / str(number), tmp_path / f"stopped-{number}", symlinks=True)
        return RunDirectory.open(tmp_path / f"stopped-{number}")[0]

    return at


@pytest.fixture(scope="session")
def results():
    """What a finished run ends with, to be compared: file names to bytes, and the predictions' columns."""

    def read(run: RunDirectory) -> dict[str, Any]:
        names = ("shared.safetensors", "warm_start.safetensors", "clients.csv")
        files = [run.path / name for name in names if (run.path / name).exists()] + sorted(
            (run.path / "private").iterdir()
        )
        predictions = pd.read_parquet(run.path / "predictions.parquet").to_dict("list")
        return {file.name: file.read_bytes() for file in files} | {"predictions": predictions}

    return read
