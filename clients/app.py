"""The ClientApp: what Flower runs on a client, in a simulation or on a machine of its own."""

from collections.abc import Callable

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from clients import training, whole_model
from clients.evaluation import evaluate
from fed_rebel import files
from strategy.messages import NO_SPACE, Hello, Order, Reply

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Tell the server which client of the partition this node is."""
    return Message(Hello(_client(context)).to_record(), reply_to=message)


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train a round's stage."""
    order = Order.from_record(message.content)
    train = training.train if order.settings.method == "rebel" else whole_model.train
    return _answer(message, lambda: train(order, _client(context)))


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the new shared part with this client's own private parts."""
    return _answer(message, lambda: evaluate(Order.from_record(message.content), _client(context)))


def _answer(message: Message, carry_out: Callable[[], Reply]) -> Message:
    """The reply, or an error that Flower makes of what is raised; a full disk is told apart from a faulty client."""
    try:
        return Message(carry_out().to_record(), reply_to=message)
    except OSError as error:
        if error.errno not in files.NO_SPACE:
            raise
        return Message(Error(NO_SPACE, str(error)), reply_to=message)


def _client(context: Context) -> int:
    return int(context.node_config["partition-id"])
