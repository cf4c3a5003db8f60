"""The server: Head2 and Tail behind gRPC over TLS, for whoever bears the token."""

import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn

import grpc
import numpy as np
import torch
from torch import Tensor

from fed_rebel.model.code import EightBitCode
from fed_rebel.offload.batching import Batcher
from fed_rebel.offload.credentials import ServerCredentials
from fed_rebel.offload.parts import ServerPart
from fed_rebel.offload.wire import (
    MOST_CODES,
    QUERIES_HEADER,
    SESSION_SIZE,
    Hello,
    Labels,
    Logits,
    Queries,
    Wanted,
    Welcome,
    WireError,
    WrongVersion,
)

SERVICE = "fed_rebel.Offload"
WAIT = 0.002
"""Seconds that a batch stays open for other devices."""
CONNECTIONS = 256
"""At once; so many queries of one each can be under way."""
SESSIONS = 4096
"""Devices that are remembered; one that was forgotten says hello again."""
LONGEST = 30.0
"""Seconds after which a query is given up whatever its device's deadline."""


@dataclass(frozen=True, eq=False)
class _Session:
    """What a device told at connect."""

    code: EightBitCode
    wanted: Wanted
    log_prior: Tensor | None


class Server:
    """Serves one part on one port until it is stopped. Memory and connections are bounded by the constants above."""

    def __init__(
        self, part: ServerPart, credentials: ServerCredentials, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Listen; port 0 takes a free one. Raises `ValueError` where that port cannot be had, or for a bad key."""
        self._part, self._token = part, credentials.token.encode()
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._lock = threading.Lock()
        self._batcher = Batcher(part.logits, MOST_CODES, WAIT)
        self._server = grpc.server(
            ThreadPoolExecutor(CONNECTIONS, "device"),
            maximum_concurrent_rpcs=CONNECTIONS,
            options=(
                ("grpc.max_receive_message_length", QUERIES_HEADER + MOST_CODES * part.code_size),
                ("grpc.max_allowed_incoming_connections", CONNECTIONS),
                ("grpc.max_concurrent_streams", CONNECTIONS),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a rival
            ),
        )
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(self._checked(answer))
            for name, answer in (("Connect", self._connect), ("Ask", self._ask))
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        try:
            tls = grpc.ssl_server_credentials([(credentials.key, credentials.certificate)])
            self.port = self._server.add_secure_port(f"{host}:{port}", tls)
        except RuntimeError:
            raise ValueError(
                f"--host {host} --port {port}: cannot listen there; the port is taken or not yours, the host is not "
                "this machine, or certificate and key do not fit each other"
            ) from None
        self._server.start()

    def stop(self) -> None:
        """Answer what is under way, for two seconds at most, and let go of the port."""
        self._server.stop(grace=2).wait()
        self._batcher.close()

    def _checked(
        self, answer: Callable[[bytes, grpc.ServicerContext], bytes]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """The method, for who bears the token; what is wrong with a message becomes its status."""

        def checked(message: bytes, context: grpc.ServicerContext) -> bytes:
            borne = dict(context.invocation_metadata()).get("authorization", b"")
            borne = borne.encode() if isinstance(borne, str) else borne
            if not hmac.compare_digest(borne, b"Bearer " + self._token):
                _refuse(context, grpc.StatusCode.UNAUTHENTICATED, "wrong token")
            try:
                return answer(message, context)
            except WrongVersion as error:
                _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
            except WireError as error:
                _refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

        return checked

    def _connect(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        hello = Hello.decode(message)
        self._check_model(hello.model, context)
        if hello.log_prior is not None and len(hello.log_prior) != self._part.classes:
            raise WireError(f"label prior of {len(hello.log_prior)} classes: this model has {self._part.classes}")
        code = EightBitCode()
        code.low.copy_(torch.tensor(hello.low))
        code.high.copy_(torch.tensor(hello.high))
        log_prior = None if hello.log_prior is None else torch.tensor(hello.log_prior)
        session = secrets.token_bytes(SESSION_SIZE)
        with self._lock:
            self._sessions[session] = _Session(code, hello.wanted, log_prior)
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        return Welcome(session, self._part.classes).encode()

    def _ask(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        began = time.perf_counter()
        queries = Queries.decode(message, self._part.code_size)
        self._check_model(queries.model, context)
        with self._lock:
            session = self._sessions.get(queries.session)
            if session is not None:
                self._sessions.move_to_end(queries.session)
        if session is None:
            _refuse(context, grpc.StatusCode.NOT_FOUND, "unknown session")
        levels = torch.tensor(queries.levels).view(-1, *self._part.shape)
        asked = self._batcher.ask(session.code.decode(levels))

        def give_up() -> None:
            asked.cancel()

        context.add_callback(give_up)  # when nobody waits for it any more
        try:
            logits = asked.result(LONGEST)
        except TimeoutError:
            asked.cancel()
            _refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "the server is too busy")
        except CancelledError:
            _refuse(context, grpc.StatusCode.CANCELLED, "the device no longer waits")
        if session.log_prior is not None:
            logits = logits + session.log_prior
        if session.wanted == "logits":
            return Logits(logits.numpy(), time.perf_counter() - began).encode()
        confidence, label = logits.softmax(1).max(1).values, logits.argmax(1)
        return Labels(label.numpy(), confidence.numpy().astype(np.float32), time.perf_counter() - began).encode()

    def _check_model(self, model: bytes, context: grpc.ServicerContext) -> None:
        if model != self._part.fingerprint:
            _refuse(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"another model, {self._part.fingerprint.hex()[:12]}",
            )


def _refuse(context: grpc.ServicerContext, status: grpc.StatusCode, reason: str) -> NoReturn:
    context.abort(status, reason)
    raise AssertionError("abort raises")
