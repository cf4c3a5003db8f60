"""The server's decisions: which rounds, over whom, how replies are averaged, and what messages hold."""

import math
from collections import Counter

import pytest
import torch
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fed_rebel import tensor_file
from fed_rebel.settings import Settings
from strategy.fedavg import FedAvg
from strategy.late import keep, take
from strategy.messages import Hello, Order, Reply, Stage, size
from strategy.participation import choose_clients, draw
from strategy.plan import plan
from strategy.rebel import evaluated_parts, sent_parts
from strategy.strategies import aggregate

# The rounds


def rounds(warm_start=0, distill=0, finetune=0, evaluate_every=1):
    return plan(
        Settings.from_flat(
            {
                "rounds.warm_start": warm_start,
                "rounds.distill": distill,
                "rounds.finetune": finetune,
                "rounds.evaluate_every": evaluate_every,
            }
        )
    )


def test_the_stages_come_in_the_protocol_s_order():
    assert [step.stage for step in rounds(warm_start=2, distill=2, finetune=1)] == [
        Stage.WARM_START,
        Stage.WARM_START,
        Stage.PRIVATE_START,
        Stage.DISTILL,
        Stage.DISTILL,
        Stage.PRIVATE_PASS,
        Stage.FINETUNE,
    ]


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4), st.integers(0, 3))
@hypothesis_settings(deadline=None)
def test_whatever_the_numbers_of_rounds(warm_start, distill, finetune, evaluate_every):
    steps = rounds(warm_start, distill, finetune, evaluate_every)
    stages = [step.stage for step in steps]
    assert [step.number for step in steps] == list(range(len(steps)))
    assert stages.count(Stage.PRIVATE_START) == 1
    # One private pass, right after the last distillation round.
    assert stages.count(Stage.PRIVATE_PASS) == (distill > 0)
    if distill:
        assert stages[stages.index(Stage.PRIVATE_PASS) - 1] is Stage.DISTILL
        assert Stage.DISTILL not in stages[stages.index(Stage.PRIVATE_PASS) :]
    assert (stages.count(Stage.WARM_START), stages.count(Stage.FINETUNE)) == (warm_start, finetune)
    assert [step.last for step in steps] == [False] * (len(steps) - 1) + [True]
    # What training is reported against, and the result, are measured whatever is asked for.
    assert steps[warm_start].evaluate
    assert steps[-1].evaluate
    # Before the private start the clients have no private parts to be evaluated with.
    assert not any(step.evaluate for step in steps[:warm_start])


@pytest.mark.parametrize(
    ("every", "evaluated"), [(0, [1, 6]), (1, [1, 2, 3, 4, 5, 6]), (2, [1, 3, 5, 6]), (3, [1, 4, 6])]
)
def test_every_nth_round_after_the_private_start_is_evaluated(every, evaluated):
    steps = rounds(warm_start=1, distill=2, finetune=2, evaluate_every=every)
    assert [step.number for step in steps if step.evaluate] == evaluated


@pytest.mark.parametrize("head1", ["local", "frozen", "shared"])
def test_nothing_private_is_sent_after_the_private_start(head1):
    shared_head1 = {"head1"} if head1 == "shared" else set()
    assert set(sent_parts(Stage.WARM_START, head1)) == {"head1", "code", "early", "head2"}
    for stage in (Stage.DISTILL, Stage.PRIVATE_PASS):
        assert set(sent_parts(stage, head1)) == {"head2"} | shared_head1
    assert set(sent_parts(Stage.FINETUNE, head1)) == {"head2", "tail"} | shared_head1
    assert set(evaluated_parts(head1)) == {"head2", "tail"} | shared_head1


# Who takes part


def strategy_settings(seed=0, clients=10, **changes):
    return Settings.from_flat(
        {"seed": seed, "partition.clients": clients} | {f"strategy.{key}": value for key, value in changes.items()}
    )


def alike(clients):
    return dict.fromkeys(range(clients), 20)


@given(st.integers(1, 300), st.floats(0.001, 1), st.integers(1, 20), st.integers(0, 2**40), st.integers(0, 500))
@hypothesis_settings(deadline=None)
def test_a_fraction_of_the_clients_trains_and_at_least_so_many(clients, fraction, least, seed, number):
    settings = strategy_settings(seed, clients, fraction=fraction, least=least)
    chosen = choose_clients(settings, alike(clients), number)
    assert len(chosen) == min(clients, max(least, round(fraction * clients)))
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(clients))
    assert chosen == choose_clients(settings, alike(clients), number)


def test_all_train_unless_the_fraction_says_otherwise():
    assert choose_clients(strategy_settings(clients=7), alike(7), 0) == list(range(7))


def test_every_client_gets_its_turn_and_other_seeds_choose_others():
    def turns(seed):
        return [tuple(choose_clients(strategy_settings(seed, fraction=0.3), alike(10), n)) for n in range(60)]

    assert set().union(*turns(0)) == set(range(10))
    assert turns(0) != turns(1)


def test_sampling_by_size_chooses_a_client_as_often_as_it_has_images():
    settings = strategy_settings(clients=4, fraction=0.25, sampling="size")
    sizes = {0: 10, 1: 20, 2: 30, 3: 140}
    times = Counter(client for number in range(4000) for client in choose_clients(settings, sizes, number))
    for client, images in sizes.items():
        # Within four standard deviations of a binomial count.
        p = images / 200
        assert abs(times[client] - 4000 * p) < 4 * math.sqrt(4000 * p * (1 - p))


@given(st.floats(0, 0.99), st.floats(0, 0.99), st.integers(1, 12), st.floats(0.1, 1), st.integers(0, 99))
@hypothesis_settings(deadline=None)
def test_simulated_failures_leave_at_least_so_many_replies(dropout, late, least, fraction, number):
    changes = {"dropout": dropout, "late": late, "least": least, "fraction": fraction}
    settings = strategy_settings(**changes)
    who = draw(settings, alike(10), number)
    chosen = choose_clients(settings, alike(10), number)
    assert sorted(who.on_time + who.late + who.failed) == chosen
    assert who.trained == sorted(who.on_time + who.late)
    assert len(who.on_time) >= min(least, 10)
    assert who == draw(settings, alike(10), number)


def test_clients_fail_and_are_late_as_often_as_the_settings_say():
    settings = strategy_settings(dropout=0.2, late=0.5)
    rounds = [draw(settings, alike(10), number) for number in range(500)]
    failed = sum(len(who.failed) for who in rounds) / 5000
    late = sum(len(who.late) for who in rounds) / sum(len(who.trained) for who in rounds)
    assert failed == pytest.approx(0.2, abs=0.025)
    assert late == pytest.approx(0.5, abs=0.03)
    nobody = draw(strategy_settings(), alike(10), 0)
    assert (nobody.failed, nobody.late) == ([], [])


def test_a_late_reply_changes_the_next_round_s_tensors_as_it_changed_its_own(tmp_path):
    generator = torch.Generator().manual_seed(3)
    sent = {"head2.weight": torch.randn(2, 3, generator=generator), "tail.weight": torch.ones(2)}
    change = torch.randn(2, 3, generator=generator)
    beside = {"head2.weight": torch.ones(2, 3)}
    reply = Reply(4, 17, {"head2.weight": sent["head2.weight"] + change}, weight=2.5, beside=beside)
    tensor_file.write(tmp_path / "memory.safetensors", {"own": torch.ones(1)} | keep([reply], sent))
    now = {"head2.weight": torch.randn(2, 3, generator=generator)}
    (came,), memory = take(tensor_file.read(tmp_path / "memory.safetensors"), now)
    torch.testing.assert_close(came.tensors["head2.weight"], now["head2.weight"] + change)
    assert (came.client, came.samples, came.weight) == (4, 17, 2.5)
    assert torch.equal(came.beside["head2.weight"], beside["head2.weight"])
    assert memory.keys() == {"own"}


# Averages


def tensors(generator, classes=3):
    return {
        "head2.weight": torch.randn(2, 3, generator=generator),
        "head2.bias": torch.randn(2, generator=generator),
        "head2.num_batches_tracked": torch.randint(100, (), generator=generator),
        "early.means": torch.randn(classes, 2, 4, generator=generator),
        "early.log_weights": torch.randn(classes, 2, generator=generator),
    }


WEIGHTS = {"samples": float, "uniform": lambda n: 1.0, "sqrt": math.sqrt}


def replies(samples, counts=None, seed=0, weights="samples"):
    generator = torch.Generator().manual_seed(seed)
    counts = counts or [()] * len(samples)
    return [
        Reply(client, n, tensors(generator), label_counts=tuple(of_classes), weight=WEIGHTS[weights](n))
        for client, (n, of_classes) in enumerate(zip(samples, counts, strict=True))
    ]


def current():
    return tensors(torch.Generator().manual_seed(99)) | {"tail.weight": torch.ones(2)}


def average(start, got):
    """The server's tensors after a round of federated averaging."""
    return aggregate(FedAvg(Settings(), 0), start, got, {})[0]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_average_is_weighted_by_samples_equally_or_by_their_root(weights):
    got, start = replies([10, 20, 70], weights=weights), current()
    averaged = average(start, got)
    each = [WEIGHTS[weights](reply.samples) for reply in got]
    for name in ("head2.weight", "head2.bias", "early.means"):
        for place in range(start[name].numel()):
            values = [reply.tensors[name].flatten()[place].item() for reply in got]
            expected = sum(w * value for w, value in zip(each, values, strict=True)) / sum(each)
            assert averaged[name].flatten()[place].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert averaged[name].dtype == start[name].dtype


@given(st.permutations(range(6)), st.sampled_from(list(WEIGHTS)), st.integers(0, 100), st.booleans())
@hypothesis_settings(max_examples=40)
def test_the_order_in_which_replies_arrive_changes_no_bit(order, weights, seed, by_class):
    counts = [[client, 2 * client, 7] for client in range(6)] if by_class else None
    got = replies([1, 3, 10, 17, 1000, 12345], counts, seed, weights)
    expected, averaged = average(current(), got), average(current(), [got[i] for i in order])
    assert all(torch.equal(averaged[name], expected[name]) for name in expected)


def test_what_no_client_sent_stays_and_integers_are_never_averaged():
    start = current()
    before = {name: tensor.clone() for name, tensor in start.items()}
    averaged = average(start, replies([1, 2]))
    assert averaged.keys() == start.keys()
    assert torch.equal(averaged["tail.weight"], before["tail.weight"])
    assert torch.equal(averaged["head2.num_batches_tracked"], before["head2.num_batches_tracked"])
    # Nor does it touch what it was given.
    assert all(torch.equal(start[name], before[name]) for name in start)


def test_one_reply_is_its_own_average():
    (only,) = got = replies([17])
    averaged = average(current(), got)
    assert all(torch.equal(averaged[name], only.tensors[name]) for name in only.tensors if "tracked" not in name)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_in_the_warm_start_each_class_of_the_mixture_is_averaged_by_its_images(weights):
    counts = [[5, 0, 0], [15, 4, 0], [0, 12, 0]]
    got, start = replies([5, 19, 12], counts, weights=weights), current()
    averaged = average(start, got)
    for name in ("early.means", "early.log_weights"):
        for c in range(3):
            held = sum(of_client[c] for of_client in counts)
            if held == 0:
                # A class that nobody holds keeps its start.
                assert torch.equal(averaged[name][c], start[name][c])
                continue
            expected = torch.zeros_like(start[name][c], dtype=torch.float64)
            for reply, of_client in zip(got, counts, strict=True):
                expected += of_client[c] / held * reply.tensors[name][c].double()
            torch.testing.assert_close(averaged[name][c].double(), expected, rtol=1e-5, atol=1e-6)
    each = [WEIGHTS[weights](reply.samples) for reply in got]
    bias = sum(w * r.tensors["head2.bias"].double() for w, r in zip(each, got, strict=True)) / sum(each)
    torch.testing.assert_close(averaged["head2.bias"].double(), bias, rtol=1e-5, atol=1e-6)


def test_without_replies_there_is_no_average():
    with pytest.raises(ValueError, match="no replies"):
        average(current(), [])


# Messages


def through_flower(record):
    """The record after it has gone over the wire."""
    return recorddict_from_proto(recorddict_to_proto(record))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name])


@pytest.mark.parametrize("sent", [{}, tensors(torch.Generator().manual_seed(0))])
def test_an_order_comes_through_a_message_as_it_was(sent):
    settings = Settings.from_flat({"seed": 2**40, "partition.alpha": 1e-4, "exits.server_prior": True})
    order = Order(settings, "/a run/ü", "/a run/ü/outbox", 3, Stage.DISTILL, 2**40, True, sent)
    got = Order.from_record(through_flower(order.to_record()))
    assert got.settings == settings
    assert (got.run, got.outbox, got.round, got.stage) == ("/a run/ü", "/a run/ü/outbox", 3, Stage.DISTILL)
    assert (got.early_seed, got.last) == (2**40, True)
    assert_same(got.tensors, sent)


@pytest.mark.parametrize("counts", [(), (3, 0, 4)])
@pytest.mark.parametrize("sent", [{}, tensors(torch.Generator().manual_seed(0))])
def test_a_reply_comes_through_a_message_as_it_was(sent, counts):
    reply = Reply(4, 7, sent, {"loss_early": 0.5}, counts)
    got = Reply.from_record(through_flower(reply.to_record()))
    assert (got.client, got.samples, got.losses, got.label_counts) == (4, 7, {"loss_early": 0.5}, counts)
    assert_same(got.tensors, sent)


def test_a_hello_comes_through_a_message_as_it_was():
    assert Hello.from_record(through_flower(Hello(12).to_record())) == Hello(12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reply_that_is_not_finite_is_refused_by_name(value):
    sent = {"head2.bias": torch.zeros(2), "head2.weight": torch.tensor([1.0, value])}
    with pytest.raises(ValueError, match=r"^tensor head2\.weight of client 3: not finite$"):
        Reply.from_record(through_flower(Reply(3, 7, sent).to_record()))


@pytest.mark.parametrize("samples", [0, -1])
def test_a_reply_without_images_is_refused(samples):
    with pytest.raises(ValueError, match=rf"^samples = {samples}: client 3 has no images; at least 1$"):
        Reply(3, samples)


def test_bytes_are_those_of_the_tensors():
    assert size({"a": torch.zeros(3, 5), "b": torch.zeros(2, dtype=torch.int64)}) == 4 * 15 + 8 * 2
