"""A round's replies, given to a strategy that Flower ships."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flwr.app import ArrayRecord, Message, MessageType, Metadata, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy

from fed_rebel.tensor_file import Tensors
from strategy.messages import Reply
from strategy.rounds import RunFailed

WEIGHT = "weight"
"""What Flower's strategies know as `weighted_by_key`."""


def aggregated(flower: Strategy, current: Tensors, replies: Sequence[Reply], server_round: int = 1) -> Tensors:
    """What Flower's `aggregate_train` makes of the replies, as tensors like `current`.

    Flower sums message after message: in the order of the clients, as our own averages do. `server_round` is from 1.
    Raises `RunFailed` where it makes nothing of them.
    """
    with _silent():
        arrays, _ = flower.aggregate_train(server_round, [message_of(reply, current) for reply in replies])
    if arrays is None:
        raise RunFailed(f"Flower's {type(flower).__name__} makes nothing of {len(replies)} replies")
    moved = arrays.to_torch_state_dict()
    return {name: moved[name].to(before.dtype) for name, before in current.items()}


def arrays_of(tensors: Tensors) -> ArrayRecord:
    """The tensors by name, in one order for all, and in float64: Flower computes in the type that it is given."""
    return ArrayRecord({name: tensors[name].double() for name in sorted(tensors)})


def message_of(reply: Reply, current: Tensors) -> Message:
    """A reply as the message that Flower's strategies await: its parameters and its weight."""
    arrays = arrays_of({name: reply.tensors[name] for name in current})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({WEIGHT: reply.weight})})
    # Not in the signatures that Flower shows; in those a message is of the process that makes it, if that runs an app.
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=reply.client,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=0.0,
        ttl=0.0,
        message_type=MessageType.TRAIN,
    )
    return Message(content, metadata=metadata)  # type: ignore[call-overload, no-any-return]


@contextmanager
def _silent() -> Iterator[None]:
    """Flower's strategies log each of their calls."""
    log = logging.getLogger("flwr")
    log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False
