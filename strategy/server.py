"""The server's side of a run: its rounds, from the first to the table of clients, whatever the method."""

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from typing import Any, Protocol, TypeVar

import pandas as pd
import torch
from flwr.serverapp import Grid

from fed_rebel.checksums import Checksum
from fed_rebel.ending import AT_WORK
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.setup import Setup, measure, prepare
from partitions import Partition
from strategy import late
from strategy.messages import STARTS, Greeting, Order, Stage
from strategy.method import Method
from strategy.participation import Participation, draw
from strategy.plan import Round, plan
from strategy.rebel import Rebel
from strategy.rounds import KEPT, Clients, Exchange, Fault, RunFailed
from strategy.strategies import aggregate, strategy_of, takes_the_mean
from strategy.whole_model import WholeModel

T = TypeVar("T")
Rows = list[dict[str, Any]]


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
    most: int | None = None
    """To how many clients messages are under way at the same time, where the engine has fewer places than that."""

    def federate(self, grid: Grid) -> None:
        """Run every round that is not finished, then write the results. Raises `RunFailed`, `ValueError`."""
        torch.set_num_threads(self.settings.engine.threads)
        rounds = plan(self.settings)
        done = self.run.rounds_done
        if done < len(rounds):
            setup = prepare(self.settings)
            greeting = Greeting(self.settings, setup.identity, setup.dataset.form)
            clients = Clients.find(grid, greeting, self.stop, all_needed=not done, most=self.most)
            if self.run.states_elsewhere not in (None, clients.own_disks):
                raise RunFailed(
                    "its clients' private states are on disks of their own: go on with the command of its deployment"
                    if self.run.states_elsewhere
                    else "its clients' private states are in the run directory: go on with fed-rebel resume, or with "
                    "nodes that have no state in their config"
                )
            method = self._method(setup)
            state, memory = (self.run.shared(), self.run.memory()) if done else (method.start(), {})
            for step in rounds[done:]:
                if step.number and step.stage is not rounds[step.number - 1].stage:
                    memory = {}
                state, memory = self._run_round(step, len(rounds), state, memory, method, clients)
        self._write_results(rounds[-1])

    def _method(self, setup: Setup) -> Method:
        if self.settings.method == "rebel":
            return Rebel.open(self.settings, setup, self.run)
        return WholeModel(self.settings, setup)

    def _run_round(
        self, step: Round, rounds: int, state: Tensors, memory: Tensors, method: Method, clients: Clients
    ) -> tuple[Tensors, Tensors]:
        began = time.monotonic()
        there, who = self._clients(step, clients.samples)
        self.watcher.round_began(step.number, rounds, step.stage, len(who.trained) + len(there) * step.evaluate)
        self.run.begin_round(step.number)
        if step.stage is Stage.PRIVATE_START:
            method.private_start(state)
        accepted: dict[str, Checksum] = {}

        def ask(kind: str, whom: list[int], sent: Tensors, beside: Tensors, only_mean: bool = False) -> Exchange:
            outbox = self.run.new_outbox(step.number)

            def replied(client: int) -> None:
                outbox.secure(client)
                self.watcher.replied()

            order = Order(
                settings=self.settings,
                run=str(self.run.path),
                run_id=self.run.id if clients.own_disks else "",
                outbox=str(outbox.path),
                round=step.number,
                stage=step.stage,
                early_seed=method.early_seed,
                last=step.last,
                tensors=sent,
                beside=beside,
                form=prepare(self.settings).dataset.form if self.settings.partition.kind == "own" else None,
            )
            states = self.run.state_sums(step.number)
            exchange = clients.exchange(whom, order, kind, replied, states, only_mean)
            accepted.update(self.run.accept(step.number, outbox, [reply.client for reply in exchange.replies]))
            exchange = replace(exchange, faults=[_with_consequence(fault, kind, step) for fault in exchange.faults])
            for fault in exchange.faults:
                self.watcher.fault(step.number, fault)
            return exchange

        strategy = strategy_of(self.settings, step.number)
        waiting, memory = late.take(memory, state)
        only_mean = not waiting and not who.late and (step.stage is Stage.WARM_START or takes_the_mean(strategy))
        trained = ask("train", who.trained, method.sent(step.stage, state), strategy.beside(memory), only_mean)
        rows = _training_rows(step, trained, who)
        of_nobody: dict[str, float] = {}
        sent, useful = state, [reply for reply in trained.replies if reply.tensors]
        on_time = [reply for reply in useful if reply.client not in who.late]
        if trained.mean is not None:
            state = trained.mean.of(state)
            of_nobody |= strategy.numbers()
        elif waiting or on_time:
            state, memory = aggregate(strategy, sent, waiting + on_time, memory)
            of_nobody |= strategy.numbers()
        # The warm start's mixture is averaged by label counts, which are not kept.
        if self.settings.strategy.late_replies == "next" and step.stage is not Stage.WARM_START:
            memory = memory | late.keep([reply for reply in useful if reply.client in who.late], sent)
        if step.stage is Stage.PRIVATE_START:
            state = method.shared(state)
        if step.stage in STARTS:
            there = [client for client in there if client not in {fault.client for fault in trained.faults}]
        if step.evaluate:
            balanced = self._beside(lambda: method.balanced_accuracy(state))
            evaluated = ask("evaluate", there, method.shared(state), {})
            rows = _with_measurements(step, rows, evaluated, self._measure(step.number))
            if step.stage is Stage.NEWCOMERS:  # the others are as they were after the round before
                rows = [row for row in rows if row["client"] in who.trained]
            if (balanced_acc := balanced.result()) is not None:
                of_nobody["balanced_acc"] = balanced_acc
        if of_nobody:
            rows.append({"round": step.number, "stage": step.stage, "client": None} | of_nobody)
        for row in rows:
            row["seconds"] = round(time.monotonic() - began, 3)
        self.run.finish_round(step.number, state, rows, memory, accepted)
        self.watcher.round_ended(rows)
        return state, memory

    def _beside(self, call: Callable[[], T]) -> "Future[T]":
        """What a call gives, computed while clients are at work; nobody who ends the run waits for it."""
        future = Future[T]()

        def run() -> None:
            torch.set_num_threads(self.settings.engine.threads)
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

        Thread(target=run, name=AT_WORK, daemon=True).start()
        return future

    def _clients(self, step: Round, samples: Mapping[int, int]) -> tuple[list[int], Participation]:
        """The clients there are in a round, and those that train in it: all members until each has a private state of
        its own, then those that have one."""
        partition, started = self.settings.partition, step.number > self.settings.rounds.warm_start
        members = self.run.clients(step.number - 1) if started else list(range(partition.members))
        if step.stage is Stage.NEWCOMERS:
            newcomers = list(range(partition.members, partition.clients))
            return members + newcomers, Participation(newcomers, [], [])
        if step.everyone:
            return members, Participation(members, [], [])
        dealt = {shard.client: len(shard.train) for shard in prepare(self.settings).partition.shards}
        # A client that brings its own images and is not there says nothing of their number.
        sizes = {client: (dealt or samples).get(client, 1) for client in members}
        return members, draw(self.settings, sizes, step.number)

    def _measure(self, number: int) -> pd.DataFrame:
        """The rows of all clients that let the server have theirs.

        A threshold that clients share is calibrated without newcomers for the others.
        """
        records, predictions = self.run.evaluations(number)
        if predictions is None:
            return pd.DataFrame(records)
        members = self.settings.partition.members
        newcomers = [record for record in records if record["client"] >= members]
        of_members = predictions["client"] < members
        measured = measure(self.settings, records[: len(records) - len(newcomers)], predictions[of_members])
        if not newcomers:
            return measured
        return pd.concat([measured, measure(self.settings, newcomers, predictions[~of_members])], ignore_index=True)

    def _write_results(self, last: Round) -> None:
        clients = self._measure(last.number)
        if clients.empty:  # they keep their rows to themselves
            clients = pd.DataFrame({"client": self.run.clients(last.number)})
        else:
            at_start = {
                row["client"]: row["local_acc"]
                for row in self.run.rows()
                if row["stage"] == Stage.PRIVATE_START and "local_acc" in row
            }
            local_acc_start = clients["client"].map(at_start).astype(float)  # of no client where nothing answers early
            clients.insert(list(clients.columns).index("local_acc") + 1, "local_acc_start", local_acc_start)
        own = self.settings.partition.kind == "own"  # nobody knows whether other runs had the same images
        clients["partition"] = self.run.id if own else Partition.load(self.run.path / "partition.npz").fingerprint
        _, predictions = self.run.evaluations(last.number)
        members = self.settings.partition.members
        if predictions is not None:
            predictions = predictions[predictions["client"] < members]
        newcomers = clients[clients["client"] >= members]
        self.run.write_results(clients[clients["client"] < members], predictions, newcomers)


def _training_rows(step: Round, trained: Exchange, who: Participation) -> Rows:
    about = {"round": step.number, "stage": str(step.stage)}
    rows: Rows = [
        about
        | {"client": reply.client, "samples": reply.samples}
        | {"bytes_down": trained.bytes_down, "bytes_up": trained.bytes_up[reply.client]}
        | reply.losses
        for reply in trained.replies
    ]
    rows += [about | {"client": fault.client, "fault": fault.reason} for fault in trained.faults]
    rows += [about | {"client": client, "fault": "did not train (strategy.dropout)"} for client in who.failed]
    for row in rows:
        if row["client"] in who.late:
            row["late"] = True
    return sorted(rows, key=lambda row: row["client"])


def _with_measurements(step: Round, rows: Rows, evaluated: Exchange, measured: pd.DataFrame) -> Rows:
    row_of = {row["client"]: row for row in rows}
    for client in [*evaluated.bytes_up, *(fault.client for fault in evaluated.faults)]:
        row_of.setdefault(client, {"round": step.number, "stage": str(step.stage), "client": client})
    of_client = {row["client"]: row for row in measured.to_dict("records")}
    for client, bytes_up in evaluated.bytes_up.items():
        row = row_of[client]
        row["bytes_down"] = row.get("bytes_down", 0) + evaluated.bytes_down
        row["bytes_up"] = row.get("bytes_up", 0) + bytes_up
        measures = {name: float(of_client[client][name]) for name in KEPT if client in of_client}
        row |= {name: value for name, value in measures.items() if not math.isnan(value)}
    for fault in evaluated.faults:
        row = row_of[fault.client]
        row["fault"] = f"{row['fault']}; {fault.reason}" if "fault" in row else fault.reason
    return [row_of[client] for client in sorted(row_of)]


def _with_consequence(fault: Fault, kind: str, step: Round) -> Fault:
    """A fault, and what comes of it beyond its round."""
    if kind == "evaluate":
        missing = "; it will be missing in clients.csv" if step.last else ""
        return replace(fault, reason=f"not measured: {fault.reason}{missing}")
    if step.stage in STARTS:
        return replace(fault, reason=f"{fault.reason}; without a private state it is left out of the rest of the run")
    return fault
