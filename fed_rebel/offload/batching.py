"""Dynamic batching: queries of all devices that come at about the same time go through the network together."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""Codes [B, ...] to logits [B, C]."""


@dataclass(frozen=True, eq=False)
class _Waiting:
    codes: Tensor
    logits: "Future[Tensor]" = field(default_factory=Future)


class Batcher:
    """Runs a network on a thread of its own, on batches of what was asked in the meantime.

    A batch is complete when `most` codes are there, or `wait` seconds after its first. Whoever cancels the future of
    its codes before their batch begins is left out of it.
    """

    def __init__(self, network: Network, most: int, wait: float) -> None:
        self._network, self._most, self._wait = network, most, wait
        self._asked: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def ask(self, codes: Tensor) -> "Future[Tensor]":
        """The logits [B, C], some time later, of codes [B, ...], B at most `most`."""
        waiting = _Waiting(codes)
        self._asked.put(waiting)
        return waiting.logits

    def close(self) -> None:
        """Answer what was asked, then stop."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        first = self._asked.get()
        while first is not None:
            batch, left = self._collect(first)
            self._answer([waiting for waiting in batch if waiting.logits.set_running_or_notify_cancel()])
            first = left or self._asked.get()

    def _collect(self, first: _Waiting) -> tuple[list[_Waiting], _Waiting | None]:
        """A batch that begins with `first`, and what was asked too but did not fit into it."""
        batch, size, end = [first], len(first.codes), time.monotonic() + self._wait
        while size < self._most:
            try:
                waiting = self._asked.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if waiting is None:
                self._asked.put(None)  # for the loop to end with, once this batch is answered
                break
            if size + len(waiting.codes) > self._most:
                return batch, waiting
            batch.append(waiting)
            size += len(waiting.codes)
        return batch, None

    def _answer(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        try:
            logits = self._network(torch.cat([waiting.codes for waiting in batch]))
        except Exception as error:  # theirs to know: the server goes on
            for waiting in batch:
                waiting.logits.set_exception(error)
            return
        for waiting, own in zip(batch, logits.split([len(waiting.codes) for waiting in batch]), strict=True):
            waiting.logits.set_result(own)
