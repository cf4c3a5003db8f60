"""The server's side of a run: the rounds of ReBEL, from the warm start to the table of clients."""

import time
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Protocol

import pandas as pd
import torch
from flwr.serverapp import Grid

from fed_rebel import tensor_file
from fed_rebel.exits.rows import ServerAnswers, client_rows
from fed_rebel.model.rebel import PRIVATE, SHARED
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.predict import accuracy_on_test
from fed_rebel.training.pretrained import warm_start
from fed_rebel.training.setup import Setup, prepare, target_of
from fed_rebel.training.warm_start import WarmStart, build_model
from partitions import Partition
from strategy.fedavg import average
from strategy.messages import Order, Stage
from strategy.plan import Round, plan
from strategy.rounds import Clients, Exchange, Fault, RunFailed, choose_clients

Rows = list[dict[str, Any]]

KEPT = ("local_acc", "remote_acc", "remote_acc_prior", "overall_acc", "coverage", "gain")
"""The measurements of an evaluation that go into `rounds.jsonl`."""


class Watcher(Protocol):
    """Hears how a run goes: a progress display, a logger, a tracker."""

    def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
        """A round begins, of `rounds`, that will exchange so many messages."""

    def replied(self) -> None:
        """A client's reply came in."""

    def fault(self, round: int, fault: Fault) -> None:
        """A client's reply could not be used."""

    def round_ended(self, rows: Rows) -> None:
        """A round is finished and kept, with its rows of `rounds.jsonl`."""


@dataclass(frozen=True)
class Server:
    """Runs what is left of a run."""

    settings: Settings
    run: RunDirectory
    watcher: Watcher
    stop: Event = field(default_factory=Event)
    """Set to end the run where it stands; what it has finished is kept."""

    def federate(self, grid: Grid) -> None:
        """Run every round that is not finished, then write the results. Raises `RunFailed`, `ValueError`."""
        torch.set_num_threads(self.settings.engine.threads)
        setup = prepare(self.settings)
        rounds = plan(self.settings)
        done = self.run.rounds_done
        if done < len(rounds):
            clients = Clients.find(grid, self.settings.partition.clients, self.stop)
            start = self._start(setup, done)
            state = self.run.shared() if done else start.tensors
            for step in rounds[done:]:
                state = self._run_round(step, len(rounds), state, start.early_seed, clients, setup)
        self._write_results(rounds[-1])

    def _start(self, setup: Setup, done: int) -> WarmStart:
        kept = self.run.path / "warm_start.safetensors"
        if done and kept.exists():
            return WarmStart.from_tensors(tensor_file.read(kept))
        return warm_start(self.settings, setup.dataset, setup.base, setup.compute)

    def _run_round(
        self, step: Round, rounds: int, state: Tensors, early_seed: int, clients: Clients, setup: Setup
    ) -> Tensors:
        began = time.monotonic()
        everyone = list(range(self.settings.partition.clients))
        trainees = everyone
        if step.stage in (Stage.WARM_START, Stage.DISTILL, Stage.FINETUNE):
            trainees = choose_clients(len(everyone), self.settings.strategy.fraction, self.settings.seed, step.number)
        self.watcher.round_began(step.number, rounds, step.stage, len(trainees) + len(everyone) * step.evaluate)
        self.run.begin_round(step.number)
        if step.stage is Stage.PRIVATE_START:
            tensor_file.write(self.run.path / "warm_start.safetensors", WarmStart(state, early_seed).to_tensors())

        def ask(kind: str, whom: list[int], parts: tuple[str, ...]) -> Exchange:
            sent = {name: tensor for name, tensor in state.items() if name.split(".")[0] in parts}
            order = Order(self.settings, str(self.run.path), step.number, step.stage, early_seed, step.last, sent)
            return clients.exchange(whom, order, kind, self.watcher.replied)

        trained = ask("train", trainees, sent_parts(step.stage, self.settings.head1))
        for fault in trained.faults:
            self.watcher.fault(step.number, fault)
        rows = _training_rows(step, trained)
        if trained.replies[0].tensors:
            state = average(state, trained.replies, self.settings.strategy)
        if step.stage is Stage.PRIVATE_START:
            _refuse_faults(step, trained)
            public = evaluated_parts(self.settings.head1)
            state = {name: tensor for name, tensor in state.items() if name.split(".")[0] in public}
        if step.evaluate:
            evaluated = ask("evaluate", everyone, evaluated_parts(self.settings.head1))
            _refuse_faults(step, evaluated)
            rows = _with_measurements(step, rows, evaluated, self._measure(step.number))
            balanced = warm_start_accuracy(self.settings, setup, self.run, state)
            rows.append({"round": step.number, "stage": step.stage, "client": None, "balanced_acc": balanced})
        for row in rows:
            row["seconds"] = round(time.monotonic() - began, 3)
        self.run.finish_round(step.number, state, rows)
        self.watcher.round_ended(rows)
        return state

    def _measure(self, number: int) -> pd.DataFrame:
        records, predictions = self.run.evaluations(number)
        exits = self.settings.exits
        target = target_of(self.settings)
        server: ServerAnswers = "stacked" if exits.stacking else "prior" if exits.server_prior else "plain"
        return client_rows(records, predictions, target, server=server, by_class=exits.by_class)

    def _write_results(self, last: Round) -> None:
        clients = self._measure(last.number)
        at_start = {
            row["client"]: row["local_acc"]
            for row in self.run.rows()
            if row["stage"] == Stage.PRIVATE_START and "local_acc" in row
        }
        clients.insert(list(clients.columns).index("local_acc") + 1, "local_acc_start", clients["client"].map(at_start))
        clients["partition"] = Partition.load(self.run.path / "partition.npz").fingerprint
        _, predictions = self.run.evaluations(last.number)
        self.run.write_results(clients, predictions)


def sent_parts(stage: Stage, head1: str) -> tuple[str, ...]:
    """The parts that the server sends in a stage: after the private start nothing that is private."""
    shared_head1 = ("head1",) if head1 == "shared" else ()
    return {
        Stage.WARM_START: (*PRIVATE, "head2"),
        Stage.PRIVATE_START: PRIVATE,
        Stage.DISTILL: ("head2", *shared_head1),
        Stage.PRIVATE_PASS: ("head2", *shared_head1),
        Stage.FINETUNE: evaluated_parts(head1),
    }[stage]


def evaluated_parts(head1: str) -> tuple[str, ...]:
    """The server's parts once the warm start is over."""
    return ("head1", *SHARED) if head1 == "shared" else SHARED


def warm_start_accuracy(settings: Settings, setup: Setup, run: RunDirectory, state: Tensors) -> float:
    """Accuracy of the shared part on the whole balanced test set, through the warm start's Head1 and its code."""
    start = WarmStart.from_tensors(tensor_file.read(run.path / "warm_start.safetensors"))
    model = build_model(settings, setup.base, len(setup.dataset.classes), start.early_seed)
    model.load_parts(start.tensors | {name: t for name, t in state.items() if name.split(".")[0] in SHARED})
    setup.compute.place(model).eval()

    def answers(images: torch.Tensor) -> torch.Tensor:
        return model.remote_logits(model.code(model.head1(images).mu))

    return accuracy_on_test(answers, setup.dataset, setup.compute)


def _training_rows(step: Round, trained: Exchange) -> Rows:
    about = {"round": step.number, "stage": str(step.stage)}
    rows: Rows = [
        about
        | {"client": reply.client, "samples": reply.samples}
        | {"bytes_down": trained.bytes_down, "bytes_up": trained.bytes_up[reply.client]}
        | reply.losses
        for reply in trained.replies
    ]
    rows += [about | {"client": fault.client, "fault": fault.reason} for fault in trained.faults]
    return sorted(rows, key=lambda row: row["client"])


def _with_measurements(step: Round, rows: Rows, evaluated: Exchange, measured: pd.DataFrame) -> Rows:
    trained = {row["client"]: row for row in rows}
    of_client = {row["client"]: row for row in measured.to_dict("records")}
    with_them = []
    for client, bytes_up in evaluated.bytes_up.items():
        row: dict[str, Any] = {"round": step.number, "stage": str(step.stage), "client": client}
        row |= trained.get(client, {})
        row["bytes_down"] = row.get("bytes_down", 0) + evaluated.bytes_down
        row["bytes_up"] = row.get("bytes_up", 0) + bytes_up
        with_them.append(row | {name: float(of_client[client][name]) for name in KEPT})
    return with_them


def _refuse_faults(step: Round, exchanged: Exchange) -> None:
    """Every client must be there where the next rounds or the results need each of them."""
    if exchanged.faults:
        fault = exchanged.faults[0]
        raise RunFailed(f"round {step.number + 1}, {step.stage}: client {fault.client}: {fault.reason}")
