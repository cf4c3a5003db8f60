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
    if node.disk is None:
        return Message(Hello(node.client).to_record(), reply_to=message)
    setup = setup_of(greeting, node)
    for what in ("base_model",) if node.data else ("data", "partition", "base_model"):
        if setup.identity[what] != greeting.identity[what]:
            here, there = setup.identity[what][:16], greeting.identity[what][:16]
            raise ValueError(f"this node has another {what} than the server: {here} in place of {there}")
    samples = len(setup.partition.shards[0].train) if node.data else 0
    return Message(Hello(node.client, samples, own_disk=True).to_record(), reply_to=message)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train a round's stage."""

    def train(order: Order, shard: ClientShard) -> Reply:
        carry_out = training.train if order.settings.method == "rebel" else whole_model.train
        return carry_out(order, shard)

    return _answer(message, context, train)


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
