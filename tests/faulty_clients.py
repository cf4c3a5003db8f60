"""A ClientApp some of whose calls go wrong; a module of its own, so that the actors of Ray can import it."""

import math
import os
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from clients.app import app

released = Event()
"""Set to let the clients that wait for it go on, where they are in the same process."""


@dataclass(frozen=True)
class FaultyClients:
    """The ClientApp of fed-rebel, but for some calls, by (round, "train" or "evaluate", client)."""

    faults: Mapping[tuple[int, str, int], str]

    def __call__(self, message: Message, context: Context) -> Message:
        kind, client = message.metadata.message_type, context.node_config["partition-id"]
        if kind == "query":
            return app(message, context)
        number = message.content.config_records["order"]["round"]
        how = self.faults.get((number, kind, client))
        return app(message, context) if how is None else HOW[how](message, context)


def raises(message, context):
    raise RuntimeError("a client's own trouble")


def writes_and_raises(message, context):
    app(message, context)
    raises(message, context)


def writes_late(message, context):
    """Hangs until it is released, then carries out the order."""
    released.wait(60)
    return app(message, context)


def hangs(message, context):
    time.sleep(600)


def dies(message, context):
    os._exit(7)


def finds_its_disk_full(message, context):
    """Carries out the order, and may write no file of more than 1 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        return app(message, context)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def changed(change):
    """Carries out the order and answers with other tensors."""

    def answer(message, context):
        content = app(message, context).content
        tensors = change(dict(content.array_records["tensors"].to_torch_state_dict()))
        return Message(RecordDict({**content, "tensors": ArrayRecord(tensors)}), reply_to=message)

    return answer


def has_no_samples(message, context):
    content = app(message, context).content
    numbers = MetricRecord({**content.metric_records["reply"], "samples": 0})
    return Message(RecordDict({**content, "reply": numbers}), reply_to=message)


HOW = {
    "raises": raises,
    "writes and raises": writes_and_raises,
    "writes late": writes_late,
    "hangs": hangs,
    "dies": dies,
    "disk full": finds_its_disk_full,
    "not finite": changed(lambda tensors: {name: t * math.nan for name, t in tensors.items()}),
    "wrong shapes": changed(lambda tensors: {name: t[None] for name, t in tensors.items()}),
    "missing tensors": changed(lambda tensors: dict(list(tensors.items())[1:])),
    "no samples": has_no_samples,
}
