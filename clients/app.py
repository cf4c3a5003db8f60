"""The ClientApp: what Flower runs on a client, in a simulation or on a machine of its own."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients import training, whole_model
from clients.evaluation import evaluate
from strategy.messages import Hello, Order

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
    reply = train(order, _client(context))
    return Message(reply.to_record(), reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Evaluate the new shared part with this client's own private parts."""
    reply = evaluate(Order.from_record(message.content), _client(context))
    return Message(reply.to_record(), reply_to=message)


def _client(context: Context) -> int:
    return int(context.node_config["partition-id"])
