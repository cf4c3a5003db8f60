"""A device's connection to the server."""

import time
from typing import Self, TypeAlias

import grpc
import numpy as np
from numpy.typing import NDArray

from fed_rebel.offload.credentials import DeviceCredentials
from fed_rebel.offload.server import SERVICE
from fed_rebel.offload.wire import Hello, Labels, Logits, Queries, Welcome, WireError

Method: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"


class Unanswered(RuntimeError):
    """The server gave no answer that can be used; `str` of it says why, in a few words."""


class Connection:
    """Asks one server about codes. It connects when it is first asked, and again when the server has forgotten it."""

    def __init__(
        self,
        address: str,
        credentials: DeviceCredentials,
        hello: Hello,
        classes: int,
        deadline: float,
        name: str | None = None,
    ) -> None:
        """`address` is host:port; `deadline` are the seconds that a batch may take, connecting included.

        `name` is the certificate's, where it is not that of the host.
        """
        self._address, self._hello, self._classes, self._deadline = address, hello, classes, deadline
        self._metadata = (("authorization", f"Bearer {credentials.token}"),)
        self._welcome: Welcome | None = None
        options: list[tuple[str, int | str]] = [
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, also beside others in one process
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", int(1000 * deadline)),  # in truth how long connecting may take
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.keepalive_time_ms", 20_000),  # a device that moves to another network notices it
            ("grpc.max_receive_message_length", 64 * 2**20),
        ]
        if name is not None:
            options.append(("grpc.ssl_target_name_override", name))
        tls = grpc.ssl_channel_credentials(credentials.certificate)
        self._channel = grpc.secure_channel(address, tls, options)
        self._connect: Method = self._channel.unary_unary(f"/{SERVICE}/Connect")
        self._ask: Method = self._channel.unary_unary(f"/{SERVICE}/Ask")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def ask(self, levels: NDArray[np.uint8]) -> Labels | Logits:
        """The server's answers to codes [B, 867], B at most 256, as `hello.wanted` says.

        Raises `Unanswered` where there are none in time, and `ValueError` where the server refuses the token.
        """
        end = time.monotonic() + self._deadline
        try:
            try:
                return self._answers(levels, end)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:  # it was started anew, or met too many others since
                    raise
                self._welcome = None
                return self._answers(levels, end)
        except grpc.RpcError as error:
            raise self._reason(error) from None
        except WireError as error:
            raise Unanswered(f"server answers what is not understood: {error}") from None

    def _answers(self, levels: NDArray[np.uint8], end: float) -> Labels | Logits:
        if self._welcome is None:
            welcome = Welcome.decode(self._call(self._connect, self._hello.encode(), end))
            if welcome.classes != self._classes:
                raise WireError(f"{welcome.classes} classes, {self._classes} here")
            self._welcome = welcome
        queries = Queries(self._hello.model, self._welcome.session, levels)
        answers: type[Labels | Logits] = Labels if self._hello.wanted == "labels" else Logits
        return answers.decode(self._call(self._ask, queries.encode(), end), len(levels), self._classes)

    def _call(self, method: Method, message: bytes, end: float) -> bytes:
        return method(message, timeout=max(0.001, end - time.monotonic()), metadata=self._metadata)

    def _reason(self, error: grpc.RpcError) -> Exception:
        status, details = error.code(), " ".join((error.details() or "").split())
        if status is grpc.StatusCode.UNAUTHENTICATED:
            return ValueError(f"--server {self._address}: refuses the token; give the one of that server")
        if status is grpc.StatusCode.UNAVAILABLE:
            return Unanswered("server away")
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unanswered(f"server too slow, over {self._deadline:g} s")
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Unanswered("server busy")
        if status is grpc.StatusCode.FAILED_PRECONDITION:
            return Unanswered(f"server has {details}")
        return Unanswered(f"server failed ({status.name.lower()}: {details})")
