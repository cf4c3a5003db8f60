"""One exchange with the clients: who is there, who takes part, what is sent, and which replies are good."""

import io
import json
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import pandas as pd
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fed_rebel import files
from fed_rebel.outbox import PREDICTIONS, RECORD, STATE, STATE_SUM
from fed_rebel.training.setup import measure
from strategy.averaging import Mean
from strategy.messages import NO_SPACE, STARTS, Greeting, Hello, Order, Reply, Stage, size

KEPT = ("local_acc", "remote_acc", "remote_acc_prior", "overall_acc", "coverage", "gain")
"""The measurements of an evaluation that go into `rounds.jsonl`, where they are defined: JSON has no NaN."""
POLL_SECONDS = 0.05
"""The longest pause before the next look for replies; it is a fifth of the time since the last one came."""
WAIT_FOR_NODES_SECONDS = 120.0
WAIT_FOR_ACTORS_SECONDS = 1800.0
"""An actor that is greeted for the first time, or that takes the place of one that died, starts a process and imports
torch: minutes on a busy machine."""
WAIT_FOR_ERRORS_SECONDS = 10.0
"""An engine that ends a client at its time limit tells so by itself, and gets so long to do it."""
MOST_REASONS = 3
"""So many of the reasons are told where a run fails, each of the first client that has it."""
WRAPPED = re.compile(r"(<class '[\w.]+'>:<'|Exception ClientAppException occurred\. Message: )+(?P<said>.*)'>")
"""What Flower makes of the words of an exception."""


class RunFailed(RuntimeError):
    """The run cannot go on; what it has finished is kept. One line that says why."""


@dataclass(frozen=True)
class Fault:
    """A client whose reply cannot be used."""

    client: int
    reason: str


@dataclass(frozen=True)
class Exchange:
    """The good replies of a round in the order of the clients, the faults, and the bytes of the tensors each way."""

    replies: list[Reply]
    """Without their tensors where only their mean is asked for."""
    faults: list[Fault]
    bytes_down: int
    """To each client."""
    bytes_up: Mapping[int, int]
    """From each client with a good reply."""
    mean: Mean | None = None
    """Of the good replies, where only it is asked for and they have tensors."""


@dataclass(frozen=True)
class Clients:
    """The clients of a run, behind a Flower grid."""

    grid: Grid
    nodes: Mapping[int, int]
    """The node of each client that is connected."""
    samples: Mapping[int, int]
    """The training images of each client that brings its own."""
    own_disks: bool
    """Whether the clients keep on disks of their own what is private, rather than in the run directory."""
    stop: Event
    """Set where the engine has ended, so that nobody waits for replies that will not come."""
    most: int | None
    """Of how many a reply is awaited at the same time, where the engine has fewer places than there are clients.

    Its places are actors then, which it makes anew where they die.
    """

    @classmethod
    def find(
        cls, grid: Grid, greeting: Greeting, stop: Event, all_needed: bool = True, most: int | None = None
    ) -> "Clients":
        """All clients, once they are connected; where not `all_needed`, those that are after a while.

        Raises `RunFailed` where they do not come, or are not of this run.
        """
        clients, deadline = greeting.settings.partition.clients, time.monotonic() + WAIT_FOR_NODES_SECONDS
        while len(nodes := sorted(grid.get_node_ids())) < clients:
            if time.monotonic() > deadline:
                if nodes and not all_needed:
                    break
                raise RunFailed(
                    f"{len(nodes)} of {clients} clients connected in {WAIT_FOR_NODES_SECONDS:.0f} s; "
                    "start as many nodes as partition.clients, or set it to as many as there are"
                )
            time.sleep(POLL_SECONDS)
        record = greeting.to_record()
        answers = list(_send(grid, {node: record for node in nodes}, "query", stop, WAIT_FOR_ACTORS_SECONDS, most))
        refused = [_last_line(message.error.reason) for _, message in answers if message.has_error()]
        hellos = {node: Hello.from_record(message.content) for node, message in answers if not message.has_error()}
        found = Counter(hello.client for hello in hellos.values())
        for client in range(clients):
            if found[client] > 1:
                raise RunFailed(f"client {client}: {found[client]} nodes answer for it")
            if not found[client] and (all_needed or refused or not hellos):
                reason = f"; {refused[0]}" if refused else ""
                raise RunFailed(f"client {client}: no node answers for it{reason}")
        if len(own_disks := {hello.own_disk for hello in hellos.values()}) > 1:
            raise RunFailed("some nodes have a folder of their own (state in the node config), some not; all or none")
        return cls(
            grid,
            {hello.client: node for node, hello in hellos.items()},
            {hello.client: hello.samples for hello in hellos.values()},
            own_disks.pop(),
            stop,
            most,
        )

    def exchange(
        self,
        whom: Sequence[int],
        order: Order,
        kind: str,
        replied: Callable[[int], None],
        states: Mapping[int, str] | None = None,
        only_mean: bool = False,
    ) -> Exchange:
        """Send one order to some clients and take their replies; files in these go into the order's outbox.

        `kind` is `train` or `evaluate`; `states` is the SHA-256 of each client's private state, where they keep them
        on disks of their own. With `only_mean` no more replies are held than wait for one of a client before theirs. A
        reply that does not come, is an error, has numbers that are not finite, or
        other tensors than most is a fault, and the others are used. Raises `RunFailed` where fewer than
        `strategy.min_replies` are good, and where the disk that all share is full: the run would end otherwise.
        """
        record, timeout = order.to_record(), order.settings.engine.timeout
        timeout += WAIT_FOR_ERRORS_SECONDS if self.most is None else WAIT_FOR_ACTORS_SECONDS
        contents = {
            self.nodes[client]: _addressed(record, (states or {}).get(client, ""))
            for client in whom
            if client in self.nodes
        }
        client_of = {node: client for client, node in self.nodes.items()}
        faults = {client: "its node is not connected" for client in whom if client not in self.nodes}
        good: dict[int, Reply] = {}
        forms: dict[int, Form] = {}
        bytes_up: dict[int, int] = {}
        means: defaultdict[Form, Mean] = defaultdict(Mean)
        turns = deque(sorted(whom))

        def take_turns() -> None:
            while turns and (turns[0] in good or turns[0] in faults):
                if (client := turns.popleft()) in good and only_mean:
                    means[forms[client]].add(good[client])
                    good[client] = replace(good[client], tensors={}, beside={})

        for node, message in _send(self.grid, contents, kind, self.stop, timeout, self.most):
            client = client_of[node]
            if message.has_error() and message.error.code == NO_SPACE and not self.own_disks:
                raise RunFailed(f"round {order.round + 1}: client {client}: {message.error.reason}; make room")
            try:
                reply = self._good_reply(client, message, order, kind)
                forms[client], bytes_up[client] = _form(reply), size(reply.tensors) + size(reply.beside)
                good[client] = reply
            except ValueError as error:
                faults[client] = str(error)
            replied(client)
            take_turns()
        silent = f"no reply, engine.timeout = {order.settings.engine.timeout:g} s"
        faults |= {client: silent for client in whom if client not in good and client not in faults}
        take_turns()
        alike = Counter(forms.values())
        usual = max(alike, key=lambda form: (alike[form], len(form[0])), default=None)  # of two the fuller one
        faults |= {client: "its reply has another form than most" for client in good if forms[client] != usual}
        replies = [good[client] for client in sorted(good) if client not in faults]
        wanted, why = _wanted(order, whom)
        if len(replies) < wanted:
            first: dict[str, int] = {}
            for client in sorted(faults):
                first.setdefault(faults[client], client)
            told = [f"; client {client}: {reason}" for reason, client in islice(first.items(), MOST_REASONS)]
            raise RunFailed(
                f"round {order.round + 1}: {len(replies) or 'none'} of {len(whom)} clients gave a good reply, "
                f"{why}{''.join(told)}"
            )
        return Exchange(
            replies,
            [Fault(client, faults[client]) for client in sorted(faults)],
            size(order.tensors) + size(order.beside),
            {reply.client: bytes_up[reply.client] for reply in replies},
            means[usual] if only_mean and usual and usual[0] else None,
        )

    def _good_reply(self, client: int, message: Message, order: Order, kind: str) -> Reply:
        """A client's reply to an order. Raises `ValueError` where it cannot be used, whatever is wrong with it."""
        if message.has_error():
            raise ValueError(_last_line(message.error.reason))
        try:
            reply = Reply.from_record(message.content)
        except Exception as error:
            raise ValueError(str(error)) from error
        if reply.client != client:
            raise ValueError(f"it answers as client {reply.client}")
        for name, tensor in reply.tensors.items():
            sent = order.tensors.get(name)
            if sent is None or (sent.shape, sent.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(f"tensor {name} {tuple(tensor.shape)}, {tensor.dtype}: not what it was sent")
            if name.startswith("early.") and len(reply.label_counts) not in (0, len(tensor)) and tensor.numel():
                raise ValueError(f"{len(reply.label_counts)} label counts: tensor {name} has {len(tensor)} classes")
        held = {end: _read_file(client, end, content) for end, content in reply.files.items()}
        for end, content in reply.files.items():
            files.replace(Path(order.outbox) / f"{client}{end}", content)
        for end in self._must_write(order, kind):
            if not (Path(order.outbox) / f"{client}{end}").is_file():
                if self.own_disks:
                    raise ValueError(f"its {client}{end} did not come with its reply")
                raise ValueError(
                    f"its {client}{end} is not in the run directory: all machines must share it, or each node have a "
                    "folder of its own (state in its node config)"
                )
        if kind == "evaluate" and held:
            _check_evaluation(order, held)
        return reply

    def _must_write(self, order: Order, kind: str) -> tuple[str, ...]:
        """The files that there are of a client whatever it holds; in other rounds it may keep the state that it has."""
        if kind == "evaluate":
            share = order.settings.report.share if self.own_disks else "predictions"
            return {"predictions": (PREDICTIONS, RECORD), "rows": (RECORD,), "none": ()}[share]
        return (STATE_SUM if self.own_disks else STATE,) if order.stage in STARTS else ()


def _send(
    grid: Grid, contents: Mapping[int, RecordDict], kind: str, stop: Event, timeout: float, most: int | None
) -> Iterator[tuple[int, Message]]:
    """Node and reply as they come, until all are there or none came for `timeout` seconds: a queue behind few actors is
    waited for. An error that Flower's server makes of a node that is gone does not say which node it was."""
    # Not Grid.send_and_receive: it says nothing until the last reply is there, and over HTTP looks every 3 s.
    unsent, waiting, last_came = deque(contents), dict[str, int](), time.monotonic()
    while (unsent or waiting) and time.monotonic() - last_came < timeout:
        room = len(unsent) if most is None else min(len(unsent), most - len(waiting))
        if room:
            nodes = [unsent.popleft() for _ in range(room)]
            messages = [Message(contents[node], dst_node_id=node, message_type=kind) for node in nodes]
            waiting |= zip(grid.push_messages(messages), nodes, strict=True)
        arrived = list(grid.pull_messages(list(waiting)))
        for message in arrived:
            yield waiting.pop(message.metadata.reply_to_message_id), message
        if arrived:
            last_came = time.monotonic()
        elif stop.wait(min(max(0.001, (time.monotonic() - last_came) / 5), POLL_SECONDS)):
            raise RunFailed("the engine ended while clients were at work")


def _wanted(order: Order, whom: Sequence[int]) -> tuple[int, str]:
    """How many good replies an exchange needs, and why."""
    strategy = order.settings.strategy
    if strategy.noise_multiplier and order.stage is Stage.PRIVATE_START:
        # Who is missing here is left out of the rest of the run, of which every round needs as many as were chosen.
        return len(whom), "with strategy.noise_multiplier above 0 all must"
    most = len(whom) if order.stage is Stage.NEWCOMERS else strategy.min_replies
    return min(strategy.min_replies, most), f"strategy.min_replies = {strategy.min_replies}"


def _addressed(record: RecordDict, state: str) -> RecordDict:
    """The order's record for one client, which has this private state."""
    if not state:
        return record
    told = ConfigRecord({**record.config_records["order"], "state": state})
    return RecordDict({**record, "order": told})


def _check_evaluation(order: Order, held: Mapping[str, Any]) -> None:
    """Raise `ValueError` where no row can be made of what a client sent of its evaluation."""
    try:
        row = held[RECORD]
        if PREDICTIONS in held:
            row = measure(order.settings, [row], held[PREDICTIONS]).to_dict("records")[0]
        for name in KEPT:
            float(row[name])
    except Exception as error:
        raise ValueError(f"its evaluation cannot be read ({type(error).__name__}: {error})") from error


def _read_file(client: int, end: str, content: bytes) -> Any:
    """What a file of a client's holds. Raises `ValueError` for one that is not the client's to send, or is damaged."""
    held: Any = None
    try:
        if end == STATE_SUM:
            good = re.fullmatch(b"[0-9a-f]{64}", content) is not None
        elif end == RECORD:
            held = json.loads(content)
            good = held["client"] == client
        else:
            held = pd.read_parquet(io.BytesIO(content))
            good = end == PREDICTIONS and set(held["client"]) == {client}
    except Exception:  # whatever the readers make of bytes that are none of theirs
        good = False
    if not good:
        raise ValueError(f"its file {client}{end}: not as a client writes it")
    return held


Form = tuple[frozenset[str], frozenset[tuple[str, tuple[int, ...]]], int, frozenset[str]]


def _form(reply: Reply) -> Form:
    """What all replies of a round have in common."""
    beside = frozenset((name, tuple(tensor.shape)) for name, tensor in reply.beside.items())
    record = frozenset(json.loads(reply.files.get(RECORD, b"{}")))
    return frozenset(reply.tensors), beside, len(reply.label_counts), record


def _last_line(reason: str | None) -> str:
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    last = lines[-1] if lines else "an error without a reason"
    return wrapped["said"] if (wrapped := WRAPPED.fullmatch(last)) else last
