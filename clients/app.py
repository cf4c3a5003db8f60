"""The ClientApp: what Flower runs on a client, in a simulation or on a machine of its own."""

from collections.abc import Callable

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from clients import training, whole_model
from clients.evaluation import evaluate
from clients.node import Node
from clients.shard import ClientShard, open_shard, setup_of
from fed_rebel import files
from strategy.messages import NO_SPACE, Greeting, Hello, Order, Reply

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Tell the server which client this node is; one on a disk of its own first sees that both mean the same run."""
    greeting, node = Greeting.from_record(message.content), Node.of(context)
    hello = Hello(node.client)
    if node.disk is not None or greeting.settings.partition.kind == "own":
        setup = setup_of(greeting, node)
        identity = {"base_model": setup.base_fingerprint} if node.data else setup.identity
        for what in ("data", "partition", "base_model"):
            if what in identity and identity[what] != greeting.identity[what]:
                here, there = identity[what][:16], greeting.identity[what][:16]
                raise ValueError(f"this node has another {what} than the server: {here} in place of {there}")
        samples = len(setup.partition.shards[0].train) if node.data else 0
        hello = Hello(node.client, samples, own_disk=True)
    return Message(hello.to_record(), reply_to=message)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train a round's stage."""
    return _answer(message, context, _train)


def _train(order: Order, shard: ClientShard) -> Reply:
    return training.train(order, shard) if order.settings.method == "rebel" else whole_model.train(order, shard)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the new shared part with this client's own private parts."""
    return _answer(message, context, evaluate)


def _answer(message: Message, context: Context, carry_out: Callable[[Order, ClientShard], Reply]) -> Message:
    """The reply, or an error that Flower makes of what is raised; a full disk is told apart from a faulty client."""
    try:
        order = Order.from_record(message.content)
        reply = carry_out(order, open_shard(order, Node.of(context)))
        return Message(reply.to_record(), reply_to=message)
    except OSError as error:
        if error.errno not in files.NO_SPACE:
            raise
        return Message(Error(NO_SPACE, str(error)), reply_to=message)
