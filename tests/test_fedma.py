"""Matched averaging: channels in another order are the same network, and are averaged as such."""

import itertools

import numpy as np
import pytest
import torch

from fed_rebel.model.heads import Head2
from fed_rebel.settings import Settings, SettingsError
from strategy.fedavg import FedAvg
from strategy.fedma import HIDDEN, FedMA, assignment, channels, match, permuted
from strategy.messages import Reply
from strategy.strategies import aggregate

OUTPUTS = 12
CHOSEN = Settings.from_flat({"strategy.name": "fedma"})


def head2(seed):
    """The parameters of a Head2 whose GDNs are no identity, as a strategy has them."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: p.detach() for name, p in Head2(OUTPUTS).named_parameters()}
    return {
        f"head2.{name}": 0.3 * torch.randn(p.shape, generator=generator) + (1.0 if "root_beta" in name else 0.0)
        for name, p in parameters.items()
    }


def shuffled(tensors, seed):
    """The same with its hidden channels in some other order."""
    rng = np.random.default_rng(seed)
    for layer in HIDDEN:
        tensors = permuted(tensors, layer, rng.permutation(OUTPUTS))
    return tensors


def moved(tensors, seed, far):
    generator = torch.Generator().manual_seed(seed)
    return {name: t + far * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}


def output(tensors, codes=None):
    model = Head2(OUTPUTS)
    own = {name.removeprefix("head2."): tensor for name, tensor in tensors.items()}
    model.load_state_dict(model.state_dict() | own)
    codes = torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(7)) if codes is None else codes
    with torch.no_grad():
        return model.eval()(codes)


def after(strategy, start, clients, weights=(1.0, 2.0, 5.0)):
    replies = [Reply(i, 10, tensors, weight=weights[i]) for i, tensors in enumerate(clients)]
    return aggregate(strategy(CHOSEN, 0), start, replies, {})[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("seed", range(3))
def test_hidden_channels_in_another_order_compute_the_same(seed):
    tensors = head2(seed)
    other = shuffled(tensors, seed + 10)
    assert not same(tensors, other)
    torch.testing.assert_close(output(other), output(tensors))


def test_every_hidden_convolution_of_head2_is_matched():
    convolutions = [i for i, layer in enumerate(Head2(OUTPUTS).layers) if isinstance(layer, torch.nn.Conv2d)]
    assert [layer[0] for layer in HIDDEN] == convolutions[:-1]
    assert [layer[2] for layer in HIDDEN] == convolutions[1:]


@pytest.mark.parametrize("start", [0, 1], ids=["from the same", "from another"])
def test_permuted_copies_give_the_network_back_exactly_where_plain_averaging_does_not(start):
    tensors = head2(0)
    clients = [shuffled(tensors, seed) for seed in (1, 2, 3)]
    sent = head2(start)
    matched = after(FedMA, sent, clients)
    if start == 0:
        assert same(matched, tensors)
    # From another start it is the same network in some order.
    torch.testing.assert_close(output(matched), output(tensors))
    assert (output(after(FedAvg, sent, clients)) - output(tensors)).abs().max() > 0.1


def test_clients_that_moved_and_were_permuted_give_what_they_would_give_unpermuted():
    tensors = head2(0)
    clients = [moved(tensors, seed, 0.02) for seed in (1, 2, 3)]
    matched = after(FedMA, tensors, [shuffled(client, seed) for seed, client in enumerate(clients)])
    assert same(matched, after(FedAvg, tensors, clients))


def test_clients_that_moved_little_are_averaged_as_they_are_to_the_bit():
    tensors = head2(0)
    clients = [moved(tensors, seed, 0.02) for seed in (1, 2, 3)]
    assert same(after(FedMA, tensors, clients), after(FedAvg, tensors, clients))


def test_all_but_the_order_of_the_channels_is_plain_averaging():
    tensors = head2(0) | {"tail.fc.weight": torch.ones(2, 2), "head1.layers.0.weight": torch.zeros(3)}
    clients = [moved(tensors, seed, 2.0) for seed in (1, 2, 3)]
    matched, plain = after(FedMA, tensors, clients), after(FedAvg, tensors, clients)
    assert not same(matched, plain)
    fixed = [name for name in tensors if not name.startswith("head2.") or name.endswith("7.weight")]
    fixed += ["head2.layers.6.bias", "head2.layers.7.bias"]
    assert all(torch.equal(matched[name], plain[name]) for name in fixed)


def test_what_holds_no_head2_is_averaged():
    start = {"tail.weight": torch.zeros(3)}
    clients = [moved(start, seed, 1.0) for seed in (1, 2, 3)]
    assert same(after(FedMA, start, clients), after(FedAvg, start, clients))


def test_the_order_in_which_replies_arrive_changes_no_bit():
    start = head2(0)
    replies = [Reply(i, 10, moved(start, i, 2.0), weight=float(i + 1)) for i in range(4)]
    expected = aggregate(FedMA(CHOSEN, 0), start, replies, {})[0]
    for order in ((3, 2, 1, 0), (1, 3, 0, 2)):
        assert same(aggregate(FedMA(CHOSEN, 0), start, [replies[i] for i in order], {})[0], expected)


def distance(one, other):
    return sum((a - b) ** 2 for a, b in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_an_assignment_is_the_best_of_all_permutations(seed):
    generator = torch.Generator().manual_seed(seed)
    estimate, client = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    found = assignment(estimate, client)
    best = min(itertools.permutations(range(5)), key=lambda order: distance(estimate, client[list(order)]))
    assert found.tolist() == list(best)


@pytest.mark.parametrize("seed", range(5))
def test_at_the_end_no_client_fits_the_mean_better_in_another_order(seed):
    generator = torch.Generator().manual_seed(seed)
    start, *clients = torch.randn(4, 4, 3, generator=generator, dtype=torch.float64)
    shares = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    orders = match(start, clients, shares)
    mean = sum(share * client[order] for share, client, order in zip(shares, clients, orders, strict=True))
    for client, order in zip(clients, orders, strict=True):
        best = min(itertools.permutations(range(4)), key=lambda other: distance(mean, client[list(other)]))
        assert order.tolist() == list(best)


def test_matching_brings_clients_nearer_to_their_mean_than_their_own_order():
    start, *clients = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.full((3,), 1 / 3, dtype=torch.float64)

    def spread(orders):
        ordered = [client[order] for client, order in zip(clients, orders, strict=True)]
        mean = sum(ordered) / 3
        return sum(distance(mean, client) for client in ordered)

    assert spread(match(start, clients, shares)) < spread([np.arange(6)] * 3)


def test_a_channel_is_what_it_weighs_its_inputs_by_and_its_bias():
    tensors = head2(0)
    rows = channels(tensors, HIDDEN[0])
    assert rows.shape == (OUTPUTS, 3 * 2 * 2 + 1)
    assert torch.equal(rows[4, :-1], tensors["head2.layers.0.weight"][4].flatten().double())
    assert rows[4, -1] == tensors["head2.layers.0.bias"][4]


@pytest.mark.parametrize("method", ["fedavg", "fedper", "local"])
def test_a_method_without_head2_is_refused(method):
    with pytest.raises(SettingsError, match=r"^strategy\.name = 'fedma': .*; allowed: method = 'rebel'$"):
        Settings.from_flat({"strategy.name": "fedma", "method": method})
