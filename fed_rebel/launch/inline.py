"""The inline engine: server and clients in this process, on a few threads, without Ray."""

import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock, Thread
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fed_rebel.ending import AT_WORK

SERVER_NODE = 1
FIRST_NODE = 2


@dataclass(frozen=True)
class _Call:
    """A client at work on a message."""

    message: Message
    began: float
    thread: Thread


class InlineGrid(Grid):
    """A Flower grid whose nodes are calls of a ClientApp: node n is client n - 2.

    A client that raises gives an error reply, as on every Flower engine. So does one that is at work for longer than
    `timeout` seconds: its place is given to the next, and what it does from then on is not waited for.
    """

    def __init__(self, client_app: ClientApp, clients: int, at_once: int, timeout: float = math.inf) -> None:
        # Messages bear the identity of the task that makes them; outside Flower's own processes nobody sets it.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 0, SERVER_NODE
        self._client_app = client_app
        self._contexts = {
            FIRST_NODE + client: Context(
                run_id=0,
                node_id=FIRST_NODE + client,
                node_config={"partition-id": client, "num-partitions": clients},
                state=RecordDict(),
                run_config={},
            )
            for client in range(clients)
        }
        self._at_once, self._timeout = at_once, timeout
        self._lock = Lock()  # of the three below
        self._waiting: deque[tuple[str, Message]] = deque()
        self._working: dict[str, _Call] = {}
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """The nodes, all there from the start."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start the clients on their messages, as many at once as there are places."""
        sent = {str(uuid4()): message for message in messages}
        for message_id, message in sent.items():
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do: it has no setter
        with self._lock:
            self._waiting += sent.items()
            self._fill_places()
        return list(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are ready, each given out once."""
        with self._lock:
            for message_id, call in list(self._working.items()):
                if time.monotonic() - call.began > self._timeout:
                    reason = f"longer at work than engine.timeout = {self._timeout:g} s"
                    self._end(message_id, _error(reason, call.message))
            return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def close(self) -> None:
        """Start nothing more; nobody waits for a client that is at work, and it does not keep the process alive."""
        with self._lock:
            self._waiting.clear()

    def _fill_places(self) -> None:
        while self._waiting and len(self._working) < self._at_once:
            message_id, message = self._waiting.popleft()
            thread = Thread(target=self._run, args=(message_id, message), name=AT_WORK, daemon=True)
            self._working[message_id] = _Call(message, time.monotonic(), thread)
            thread.start()

    def _run(self, message_id: str, message: Message) -> None:
        try:
            reply = self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except BaseException as error:  # whatever ends a client's thread, its place must become free
            reply = _error(f"{type(error).__name__}: {error}", message)
        with self._lock:
            self._end(message_id, reply)

    def _end(self, message_id: str, reply: Message) -> None:
        if self._working.pop(message_id, None) is not None:  # else it was given up
            self._replies[message_id] = reply
            self._fill_places()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Not used: the server polls, so that it can show progress."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Not used: deprecated in Flower."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """Not used: there is one run."""
        raise NotImplementedError

    @property
    def run(self) -> Any:
        """Not used: there is one run."""
        raise NotImplementedError


def _error(reason: str, message: Message) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
