"""The inline engine: server and clients in this process, on a few threads, without Ray."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE = 1
FIRST_NODE = 2


class InlineGrid(Grid):
    """A Flower grid whose nodes are calls of a ClientApp: node n is client n - 2.

    A client that raises gives an error reply, as on every Flower engine.
    """

    def __init__(self, client_app: ClientApp, clients: int, at_once: int) -> None:
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
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="client")
        self._replies: dict[str, Future[Message]] = {}

    def get_node_ids(self) -> Iterable[int]:
        """The nodes, all there from the start."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Start the clients on their messages, as many at once as there are threads."""
        ids = []
        for message in messages:
            ids.append(str(uuid4()))
            message.metadata.__dict__["_message_id"] = ids[-1]  # as Flower's own grids do: it has no setter
            self._replies[ids[-1]] = self._threads.submit(self._run, message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are ready, each given out once."""
        ready = [i for i in list(message_ids) if i in self._replies and self._replies[i].done()]
        return [self._replies.pop(i).result() for i in ready]

    def close(self) -> None:
        """Start nothing more; a client that is at work ends its message."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, message: Message) -> Message:
        try:
            return self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            return Message(Error(code=1, reason=f"{type(error).__name__}: {error}"), reply_to=message)

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
