"""One exchange over a real grid: good replies are used, bad ones are told and left out."""

from threading import Event

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fed_rebel.launch.inline import InlineGrid
from fed_rebel.settings import Settings
from strategy.messages import Hello, Order, Reply, Stage
from strategy.rounds import Clients, RunFailed

SENT = {"head2.weight": torch.zeros(2, 2), "head2.bias": torch.zeros(2)}
ORDER = Order(Settings(), "run", "outbox", 0, Stage.DISTILL, 0, False, SENT)


def reply(client, **changes):
    return Reply(**({"client": client, "samples": 3, "tensors": SENT} | changes)).to_record()


def edited(record, **changes):
    return RecordDict({key: value for key, value in {**record, **changes}.items() if value is not None})


def exchange(answers):
    """Exchange ORDER with as many clients as there are answers: each a function of the client's number."""
    app = ClientApp()

    @app.query()
    def introduce(message, context):
        return Message(Hello(context.node_config["partition-id"]).to_record(), reply_to=message)

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        return Message(answers[client](client), reply_to=message)

    grid = InlineGrid(app, len(answers), at_once=1)
    try:
        clients = Clients.find(grid, len(answers), Event())
        return clients.exchange(range(len(answers)), ORDER, "train", lambda: None)
    finally:
        grid.close()


def raises(client):
    raise RuntimeError("a client's own trouble")


def not_finite(client):
    return edited(reply(client), tensors=ArrayRecord({**SENT, "head2.bias": torch.full((2,), torch.nan)}))


BAD = {
    "an error": (raises, "a client's own trouble"),
    "numbers that are not finite": (not_finite, "not finite"),
    "nothing": (lambda client: RecordDict(), "its reply has no 'reply'"),
    "no tensors": (lambda client: edited(reply(client), tensors=None), "its reply has no 'tensors'"),
    "no samples": (lambda client: edited(reply(client), reply=MetricRecord({"client": client})), "has no 'samples'"),
    "another client's number": (lambda client: reply(client + 1), "answers as client"),
    "a tensor too few": (
        lambda client: reply(client, tensors={"head2.bias": SENT["head2.bias"]}),
        "another form than most",
    ),
    "label counts that nobody asked for": (lambda client: reply(client, label_counts=(1, 2)), "another form than most"),
    "a tensor that was not sent": (lambda client: reply(client, tensors={"head1.x": torch.zeros(1)}), "head1.x"),
    "a tensor of another shape": (lambda client: reply(client, tensors={"head2.bias": torch.zeros(3)}), "head2.bias"),
}


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_reply_is_told_and_the_others_are_used(what, place):
    bad, told = BAD[what]
    answers = [reply] * 3
    answers[place] = bad
    exchanged = exchange(answers)
    assert [fault.client for fault in exchanged.faults] == [place]
    assert told in exchanged.faults[0].reason
    assert [good.client for good in exchanged.replies] == [client for client in range(3) if client != place]
    assert all(good.tensors.keys() == SENT.keys() for good in exchanged.replies)


def test_without_a_good_reply_the_run_fails_and_says_why():
    with pytest.raises(
        RunFailed, match=r"^round 1: none of 2 clients gave a good reply, .*; client 0: .*a client's own trouble"
    ):
        exchange([raises, raises])
