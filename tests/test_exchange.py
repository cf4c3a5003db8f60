"""One exchange over a real grid: good replies are used, bad ones are told and left out."""

import math
import time
from dataclasses import replace
from threading import Event, Lock

import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fed_rebel.datasets import Form, Normalisation
from fed_rebel.launch.inline import InlineGrid
from fed_rebel.settings import Settings
from strategy import rounds
from strategy.averaging import average
from strategy.messages import Greeting, Hello, Order, Reply, Stage
from strategy.rounds import Clients, RunFailed

SENT = {"head2.weight": torch.zeros(2, 2), "head2.bias": torch.zeros(2)}
SHAPES = SENT | {"early.means": torch.zeros(2, 1)}
ORDER = Order(Settings(), "run", "outbox", 0, Stage.DISTILL, 0, False, SHAPES)


def greeting(clients):
    form = Form("stripes", ("a", "b"), Normalisation((0.5,) * 3, (0.5,) * 3), flip=True)
    return Greeting(Settings.from_flat({"partition.clients": clients}), {}, form)


def reply(client, **changes):
    return Reply(**({"client": client, "samples": 3, "tensors": SENT} | changes)).to_record()


def edited(record, **changes):
    return RecordDict({key: value for key, value in {**record, **changes}.items() if value is not None})


def exchange(answers, order=ORDER, timeout=math.inf, at_once=1, only_mean=False, most=None, grid=InlineGrid):
    """Exchange an order with as many clients as there are answers: each a function of the client's number."""
    app = ClientApp()

    @app.query()
    def introduce(message, context):
        return Message(Hello(context.node_config["partition-id"]).to_record(), reply_to=message)

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        return Message(answers[client](client), reply_to=message)

    grid = grid(app, len(answers), at_once=at_once, timeout=timeout)
    try:
        clients = Clients.find(grid, greeting(len(answers)), Event(), most=most)
        return clients.exchange(range(len(answers)), order, "train", lambda client: None, only_mean=only_mean)
    finally:
        grid.close()


def raises(client):
    raise RuntimeError("a client's own trouble")


def hangs(client):
    Event().wait()


def no_loss(client):
    return edited(reply(client), losses=MetricRecord({"loss_early": math.nan}))


def not_finite(client):
    return edited(reply(client), tensors=ArrayRecord({**SENT, "head2.bias": torch.full((2,), torch.nan)}))


BAD = {
    "an error": (raises, "a client's own trouble"),
    "numbers that are not finite": (not_finite, "not finite"),
    "a loss that is not finite": (no_loss, "loss_early of client"),
    "a number that is a list": (
        lambda client: edited(reply(client), reply=MetricRecord({"client": client, "samples": [3], "weight": 1.0})),
        "not supported",
    ),
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
    "a tensor of another type": (
        lambda client: reply(client, tensors={"head2.bias": torch.zeros(2, dtype=torch.complex64)}),
        "head2.bias (2,), torch.complex64: not what it was sent",
    ),
    "label counts of other classes": (
        lambda client: reply(client, tensors=SENT | {"early.means": torch.zeros(2, 1)}, label_counts=(1, 2, 3)),
        "3 label counts: tensor early.means has 2 classes",
    ),
    "a tensor of another shape": (lambda client: reply(client, tensors={"head2.bias": torch.zeros(3)}), "head2.bias"),
}


def test_no_more_messages_are_under_way_than_the_engine_has_places_for():
    lock, working, seen = Lock(), set(), []

    def counts(client):
        with lock:
            working.add(client)
            seen.append(len(working))
        time.sleep(0.01)
        with lock:
            working.discard(client)
        return reply(client)

    found = exchange([counts] * 9, at_once=9, most=3)
    assert [good.client for good in found.replies] == list(range(9))
    assert max(seen) <= 3


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


def test_each_reason_for_which_a_run_fails_is_told_once():
    bad = {0: raises, 1: raises, 2: not_finite}
    with pytest.raises(RunFailed, match=r"replies = 1; client 0: [^;]*trouble; client 2: [^;]*not finite$"):
        exchange([bad[client] for client in range(3)])


def with_settings(**changes):
    return replace(ORDER, settings=Settings.from_flat({key.replace("__", "."): v for key, v in changes.items()}))


def test_fewer_good_replies_than_wanted_end_the_run_and_are_counted():
    order = with_settings(strategy__min_replies=2)
    assert len(exchange([reply, raises, reply], order).replies) == 2
    with pytest.raises(RunFailed, match=r"^round 1: 1 of 3 clients .*, strategy.min_replies = 2; client 1: .*trouble$"):
        exchange([reply, raises, raises], order)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_hung_client_is_given_up_and_its_place_given_to_the_next(place):
    answers = [reply] * 3
    answers[place] = hangs
    exchanged = exchange(answers, timeout=0.3)
    assert [(f.client, f.reason) for f in exchanged.faults] == [(place, "longer at work than engine.timeout = 0.3 s")]
    assert len(exchanged.replies) == 2


def test_where_no_reply_comes_for_so_long_the_server_gives_up_those_that_are_out(monkeypatch):
    monkeypatch.setattr(rounds, "WAIT_FOR_ERRORS_SECONDS", 0.0)
    exchanged = exchange([reply, hangs, reply], with_settings(engine__timeout=0.3))
    assert [fault.client for fault in exchanged.faults] == [1, 2]  # one place: the last never had its turn
    assert {fault.reason for fault in exchanged.faults} == {"no reply, engine.timeout = 0.3 s"}
    assert [good.client for good in exchanged.replies] == [0]


def test_an_engine_that_makes_its_places_anew_gets_the_time_for_it(monkeypatch):
    monkeypatch.setattr(rounds, "WAIT_FOR_ERRORS_SECONDS", 0.0)

    def by_a_new_actor(client):
        time.sleep(0.9)
        return reply(client)

    order = with_settings(engine__timeout=0.3)
    assert len(exchange([reply, by_a_new_actor, reply], order, most=4).replies) == 3


def test_a_queue_that_keeps_replying_is_not_given_up(monkeypatch):
    monkeypatch.setattr(rounds, "WAIT_FOR_ERRORS_SECONDS", 0.0)

    def slow(client):
        Event().wait(0.2)
        return reply(client)

    assert len(exchange([slow] * 5, with_settings(engine__timeout=0.6)).replies) == 5


@pytest.mark.parametrize("place", [0, 1])
def test_of_two_forms_the_fuller_one_is_used(place):
    answers = [reply] * 2
    answers[place] = lambda client: reply(client, tensors={"head2.bias": SENT["head2.bias"]})
    assert [fault.client for fault in exchange(answers).faults] == [place]


def moved(client):
    """A reply whose numbers and weight are the client's own."""
    tensors = {name: torch.full_like(tensor, 1 / (client + 3)) for name, tensor in SENT.items()}
    return reply(client, tensors=tensors, weight=client + 0.1)


@pytest.mark.parametrize("slow", range(4))
def test_the_mean_alone_has_the_same_bytes_whatever_comes_first_and_holds_no_bad_reply(slow):
    bad = {1: lambda client: reply(client, tensors={"head2.bias": torch.ones(2)}), 3: raises}
    answers = [bad.get(client, moved) for client in range(5)]
    waits = answers[slow]

    def later(client):
        Event().wait(0.2)
        return waits(client)

    answers[slow] = later
    exchanged = exchange(answers, at_once=5, only_mean=True)
    assert [(good.client, good.tensors) for good in exchanged.replies] == [(0, {}), (2, {}), (4, {})]
    assert [fault.client for fault in exchanged.faults] == [1, 3]
    assert set(exchanged.bytes_up.values()) == {4 * 6}
    whole = exchange(answers, at_once=5)
    mean = average(SENT, whole.replies, SENT)
    assert all(torch.equal(tensor, mean[name]) for name, tensor in exchanged.mean.of(SENT).items())
    expected = sum((client + 0.1) / (client + 3) for client in (0, 2, 4)) / 6.3
    torch.testing.assert_close(mean["head2.bias"], torch.full((2,), expected))


def test_without_tensors_there_is_no_mean():
    assert exchange([lambda client: reply(client, tensors={})] * 2, only_mean=True).mean is None


def test_an_error_that_does_not_say_whose_it_is_is_the_fault_of_who_was_asked():
    class Forgetful(InlineGrid):
        """As Flower's SuperLink, which answers itself for a node that is gone."""

        def pull_messages(self, message_ids):
            for message in super().pull_messages(message_ids):
                if message.has_error():
                    message.metadata.__dict__["_src_node_id"] = 1
                yield message

    found = exchange([reply, raises, reply], grid=Forgetful)
    assert [good.client for good in found.replies] == [0, 2]
    assert [fault.client for fault in found.faults] == [1]
