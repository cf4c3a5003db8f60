"""One exchange with the clients: who is there, who takes part, what is sent, and which replies are good."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from strategy.messages import Hello, Order, Reply, size

POLL_SECONDS = 0.05
WAIT_FOR_NODES_SECONDS = 120.0


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
    faults: list[Fault]
    bytes_down: int
    """To each client."""
    bytes_up: Mapping[int, int]
    """From each client with a good reply."""


@dataclass(frozen=True)
class Clients:
    """The clients of a run, behind a Flower grid."""

    grid: Grid
    nodes: Mapping[int, int]
    """The node of each client."""
    stop: Event
    """Set where the engine has ended, so that nobody waits for replies that will not come."""

    @classmethod
    def find(cls, grid: Grid, clients: int, stop: Event) -> "Clients":
        """All clients, once they are connected. Raises `RunFailed` where they do not come."""
        deadline = time.monotonic() + WAIT_FOR_NODES_SECONDS
        while len(nodes := sorted(grid.get_node_ids())) < clients:
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"{len(nodes)} of {clients} clients connected in {WAIT_FOR_NODES_SECONDS:.0f} s; "
                    "start as many nodes as partition.clients, or set it to as many as there are"
                )
            time.sleep(POLL_SECONDS)
        found = {
            Hello.from_record(message.content).client: message.metadata.src_node_id
            for message in _send(grid, {node: RecordDict() for node in nodes}, "query", lambda: None, stop)
            if not message.has_error()
        }
        if missing := sorted(set(range(clients)) - set(found)):
            raise RunFailed(f"client {missing[0]}: no node answers for it")
        return cls(grid, {client: found[client] for client in range(clients)}, stop)

    def exchange(self, whom: Sequence[int], order: Order, kind: str, replied: Callable[[], None]) -> Exchange:
        """Send one order to some clients and take their replies.

        `kind` is `train` or `evaluate`. A reply that is an error, has numbers that are not finite, or other tensors
        than most is a fault, and the others are used. Raises `RunFailed` where none is good.
        """
        record = order.to_record()
        owner = {self.nodes[client]: client for client in whom}
        replies: list[Reply] = []
        faults: list[Fault] = []
        for message in _send(self.grid, {node: record for node in owner}, kind, replied, self.stop):
            client = owner[message.metadata.src_node_id]
            try:
                if message.has_error():
                    raise ValueError(_last_line(message.error.reason))
                reply = Reply.from_record(message.content)
                if reply.client != client:
                    raise ValueError(f"it answers as client {reply.client}")
                _check_shapes(reply, order)
            except ValueError as error:
                faults.append(Fault(client, str(error)))
            else:
                replies.append(reply)
        replies.sort(key=lambda reply: reply.client)
        forms = {r.client: (frozenset(r.tensors), frozenset(r.beside), len(r.label_counts)) for r in replies}
        usual = {form for form, _ in Counter(forms.values()).most_common(1)}
        faults += [
            Fault(r.client, "its reply has another form than most") for r in replies if forms[r.client] not in usual
        ]
        replies = [r for r in replies if forms[r.client] in usual]
        faults.sort(key=lambda fault: fault.client)
        if not replies:
            first = faults[0]
            raise RunFailed(
                f"round {order.round + 1}: no client gave a good reply; client {first.client}: {first.reason}"
            )
        bytes_up = {r.client: size(r.tensors) + size(r.beside) for r in replies}
        return Exchange(replies, faults, size(order.tensors) + size(order.beside), bytes_up)


def _send(
    grid: Grid, contents: Mapping[int, RecordDict], kind: str, replied: Callable[[], None], stop: Event
) -> list[Message]:
    # Not Grid.send_and_receive: it says nothing until the last reply is there, and over HTTP looks every 3 s.
    waiting = set(
        grid.push_messages(
            [Message(content, dst_node_id=node, message_type=kind) for node, content in contents.items()]
        )
    )
    messages = []
    while waiting:
        arrived = list(grid.pull_messages(waiting))
        for message in arrived:
            waiting.discard(message.metadata.reply_to_message_id)
            replied()
        messages += arrived
        if waiting and not arrived and stop.wait(POLL_SECONDS):
            raise RunFailed("the engine ended while clients were at work")
    return messages


def _check_shapes(reply: Reply, order: Order) -> None:
    for name, tensor in reply.tensors.items():
        if name not in order.tensors or order.tensors[name].shape != tensor.shape:
            raise ValueError(f"tensor {name} {tuple(tensor.shape)}: not what it was sent")


def _last_line(reason: str | None) -> str:
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    return lines[-1] if lines else "an error without a reason"
