"""Strategies that Flower ships, and differential privacy: each against a slow plain derivation of its update, and
against federated averaging where theory says that both agree."""

import json
import logging
import math
import random
import statistics

import numpy as np
import pandas as pd
import pytest
import torch
from faulty_clients import FaultyClients
from test_strategies import CENTRES, NAME, START, WEIGHTS, Federation, mean, settings

from fed_rebel import tensor_file
from fed_rebel.report import privacy, read_rounds
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings, SettingsError
from fed_rebel.training.setup import prepare
from strategy.messages import Reply
from strategy.privacy import account
from strategy.rounds import RunFailed
from strategy.strategies import aggregate, strategy_of

OPTIMISERS = ("fedavgm", "fedadam", "fedyogi", "fedadagrad")
ROBUST = ("fedmedian", "fedtrimmedavg", "krum", "multikrum")
ROUNDS = 3


def ends(federation):
    """The parameters that the clients of the last round came to."""
    return [reply.tensors[NAME] for reply in federation.replies]


def plain_optimiser(name, rate, momentum, second_moment, tau):
    """The update of Hsu et al. 2019 and Reddi et al. 2021, number by number, with what is remembered in a list."""
    m, v = [0.0] * 3, [0.0] * 3

    def step(w, change, number):
        moved = []
        for i, (x, d) in enumerate(zip(w, change, strict=True)):
            if name == "fedavgm":
                m[i] = momentum * m[i] + d
                moved.append(x + rate * m[i])
                continue
            m[i] = d if name == "fedadagrad" else momentum * m[i] + (1 - momentum) * d
            if name == "fedadam":
                v[i] = second_moment * v[i] + (1 - second_moment) * d**2
            elif name == "fedyogi":
                v[i] -= (1 - second_moment) * d**2 * math.copysign(1, v[i] - d**2)
            else:
                v[i] += d**2
            eta = rate
            if name == "fedadam":
                eta *= math.sqrt(1 - second_moment ** (number + 1)) / (1 - momentum ** (number + 1))
            moved.append(x + eta * m[i] / (math.sqrt(v[i]) + tau))
        return moved

    return step


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_server_optimiser_is_its_paper_s_update(name, rate):
    federation = Federation(settings(name, server_rate=rate, momentum=0.8, second_moment=0.95, tau=0.02))
    default = {"fedavgm": 1.0, "fedadagrad": 0.001}.get(name, 0.01)
    step = plain_optimiser(name, rate or default, 0.8, 0.95, 0.02)
    w = START.tolist()
    for number in range(1, ROUNDS + 1):
        found = federation.round()
        change = mean(ends(federation)) - torch.tensor(w)
        w = step(w, change.tolist(), number)
        torch.testing.assert_close(found, torch.tensor(w))


def test_momentum_0_and_rate_1_is_federated_averaging_to_the_bit():
    averaging, other = Federation(settings("fedavg")), Federation(settings("fedavgm", momentum=0.0, server_rate=1.0))
    for _ in range(ROUNDS):
        assert torch.equal(averaging.round(), other.round())
    assert other.memory == {}


@pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])
def test_where_tau_is_far_above_the_changes_the_step_is_the_mean_change(name):
    # rate / tau m: Adam's correction of the first round is what is left of it.
    chosen = settings(name, momentum=0.0, second_moment=0.0, tau=10.0, server_rate=10.0)
    federation = Federation(chosen)
    federation.state = {NAME: 1e-3 * START}
    start = federation.state[NAME].clone()
    centres = [1e-3 * centre for centre in CENTRES]
    replies = [Reply(i, 10, {NAME: centre}, weight=WEIGHTS[i]) for i, centre in enumerate(centres)]
    moved, _ = aggregate(strategy_of(chosen, 0), federation.state, replies, {})
    torch.testing.assert_close(moved[NAME] - start, mean(centres) - start, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_what_an_optimiser_remembers_survives_a_file_to_the_bit(name, tmp_path):
    left_alone, stopped = Federation(settings(name)), Federation(settings(name))
    for number in range(4):
        left_alone.round()
        stopped.round()
        tensor_file.write(tmp_path / f"{number}.safetensors", stopped.memory)
        stopped.memory = tensor_file.read(tmp_path / f"{number}.safetensors")
        assert torch.equal(left_alone.state[NAME], stopped.state[NAME])
        assert left_alone.memory.keys() == stopped.memory.keys()
        assert all(torch.equal(left_alone.memory[key], stopped.memory[key]) for key in stopped.memory)
    assert {t.dtype for t in stopped.memory.values() if t.is_floating_point()} == {torch.float32}


# Robust averages


def five(values):
    """Replies of five clients with these parameters."""
    return [Reply(i, 10, {NAME: torch.tensor(value)}, weight=float(i + 1)) for i, value in enumerate(values)]


def robust(name, replies, **changes):
    chosen = Settings.from_flat(
        {"strategy.name": name, "partition.clients": len(replies)}
        | {f"strategy.{key}": value for key, value in changes.items()}
    )
    return aggregate(strategy_of(chosen, 0), {NAME: START}, replies, {})[0][NAME]


VALUES = [[1.0, 0.0, 0.0], [1.1, 0.1, 0.0], [0.9, 0.0, 0.2], [1.0, 0.2, 0.1], [90.0, -70.0, 5.0]]


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_median_is_taken_parameter_by_parameter(count):
    expected = [statistics.median(column) for column in zip(*VALUES[:count], strict=True)]
    torch.testing.assert_close(robust("fedmedian", five(VALUES[:count])), torch.tensor(expected))


@pytest.mark.parametrize("trimmed", [0.0, 0.1, 0.2, 0.45])
def test_the_trimmed_mean_leaves_out_the_outermost_clients(trimmed):
    cut = math.floor(trimmed * 5)
    expected = [statistics.mean(sorted(column)[cut : 5 - cut]) for column in zip(*VALUES, strict=True)]
    torch.testing.assert_close(robust("fedtrimmedavg", five(VALUES), trimmed=trimmed), torch.tensor(expected))


def test_nothing_trimmed_and_equal_weights_is_federated_averaging():
    replies = [Reply(r.client, 10, r.tensors) for r in five(VALUES)]
    trimmed, averaged = robust("fedtrimmedavg", replies, trimmed=0.0), robust("fedavg", replies)
    torch.testing.assert_close(trimmed, averaged, rtol=1e-7, atol=0)


def scores(values, malicious):
    """Krum's: the sum of squared distances to the n - f - 2 nearest others."""
    found = []
    for i, one in enumerate(values):
        distances = sorted(math.dist(one, other) ** 2 for j, other in enumerate(values) if j != i)
        found.append(sum(distances[: len(values) - malicious - 2]))
    return found


@pytest.mark.parametrize("malicious", [0, 1])
def test_krum_takes_the_client_in_the_densest_place(malicious):
    chosen = min(range(5), key=scores(VALUES, malicious).__getitem__)
    assert chosen != 4
    assert torch.equal(robust("krum", five(VALUES), malicious=malicious), torch.tensor(VALUES[chosen]))


def test_multikrum_averages_all_but_the_malicious():
    best = sorted(range(5), key=scores(VALUES, 1).__getitem__)[:4]
    assert 4 not in best
    total = sum(i + 1 for i in best)
    expected = sum((i + 1) / total * torch.tensor(VALUES[i]) for i in best)
    torch.testing.assert_close(robust("multikrum", five(VALUES), malicious=1), expected)


def test_multikrum_without_malicious_clients_is_federated_averaging():
    torch.testing.assert_close(robust("multikrum", five(VALUES)), robust("fedavg", five(VALUES)))


def test_krum_tells_small_changes_of_large_parameters_apart():
    # In float32 the squares of the parameters would drown the distances.
    values = [[1000.0 + 1e-3 * x for x in value] for value in VALUES[:4]] + [[1000.5, 999.5, 1000.0]]
    replies = five(values)
    exact = [reply.tensors[NAME].double().tolist() for reply in replies]
    chosen = min(range(5), key=scores(exact, 1).__getitem__)
    assert torch.equal(robust("krum", replies, malicious=1), replies[chosen].tensors[NAME])


@pytest.mark.parametrize("name", ["krum", "multikrum"])
@pytest.mark.parametrize(("clients", "malicious"), [(2, 0), (4, 1), (6, 2)])
def test_krum_needs_more_honest_clients_than_malicious_ones(name, clients, malicious):
    flat = {"strategy.name": name, "strategy.malicious": malicious}
    with pytest.raises(
        SettingsError, match=rf"^strategy\.malicious = {malicious}: .*needs {2 * malicious + 3} clients"
    ):
        Settings.from_flat(flat | {"partition.clients": clients})
    assert Settings.from_flat(flat | {"partition.clients": clients + 1})
    with pytest.raises(SettingsError):
        Settings.from_flat(flat | {"partition.clients": clients + 1, "strategy.fraction": 0.5})
    enough = 2 * malicious + 3
    with pytest.raises(SettingsError, match=rf"^strategy\.least = 1: .*; allowed: at least {enough}$"):
        Settings.from_flat(flat | {"partition.clients": clients + 1, "strategy.dropout": 0.2})
    assert Settings.from_flat(flat | {"partition.clients": 9, "strategy.dropout": 0.2, "strategy.least": enough})


@pytest.mark.parametrize("name", ["krum", "multikrum"])
def test_a_round_with_too_few_replies_for_krum_fails(name):
    chosen = Settings.from_flat({"strategy.name": name, "strategy.malicious": 1, "partition.clients": 5})
    with pytest.raises(RunFailed, match=r"^round 1: 4 good replies; .* needs 5$"):
        aggregate(strategy_of(chosen, 0), {NAME: START}, five(VALUES)[:4], {})


# All that Flower runs


@pytest.mark.parametrize("name", [*OPTIMISERS, *ROBUST])
def test_nothing_that_flower_runs_depends_on_global_random_state_or_is_logged(name, caplog):
    found = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002 - Flower's strategies must not read it
        random.seed(seed)
        torch.manual_seed(seed)
        federation = Federation(settings(name))
        with caplog.at_level(logging.DEBUG, "flwr"):
            found.append([federation.round() for _ in range(2)])
            logging.getLogger("flwr").info("aggregate is over")
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert {record.getMessage() for record in caplog.records} == {"aggregate is over"}


# Differential privacy


def private(**changes):
    return settings("fedavg", weights="uniform", **{"noise_multiplier": 1.5, "clip": 0.5} | changes)


def released(chosen):
    """A federation in the fine-tuning rounds of a run, which follow its private start."""
    federation = Federation(Settings.from_flat(chosen.flat() | {"rounds.distill": 0, "rounds.finetune": 8}))
    federation.rounds = 1
    return federation


def test_a_private_round_is_the_mean_of_clipped_changes_with_noise():
    federation = released(private())
    generator = np.random.SeedSequence([0, 1], spawn_key=tuple(b"privacy"))
    noise = np.random.default_rng(generator).normal(0, 1.5 * 0.5 / 3, 3)
    found = federation.round()
    changes = [reply.tensors[NAME].double() - START.double() for reply in federation.replies]
    assert all(change.norm() > 0.5 for change in changes)
    clipped = [change * min(1, 0.5 / change.norm().item()) for change in changes]
    torch.testing.assert_close(found, (START + sum(clipped) / 3 + torch.from_numpy(noise)).float())


def test_a_change_within_the_clip_is_left_as_it_is():
    tiny = {"noise_multiplier": 0.001, "clip": 100.0}
    private_one, averaging = released(private(**tiny)), Federation(settings("fedavg", weights="uniform"))
    found = private_one.round()
    averaging.round()
    torch.testing.assert_close(found, torch.stack(ends(averaging)).mean(0), atol=0.2, rtol=0)
    assert not torch.equal(found, torch.stack(ends(averaging)).mean(0))


def test_the_noise_is_a_function_of_seed_and_round():
    def noises(seed, global_seed):
        np.random.seed(global_seed)  # noqa: NPY002 - it must not matter
        federation = released(Settings.from_flat(private().flat() | {"seed": seed}))
        return [federation.round() for _ in range(2)]

    (one, two), (same, _), (other, _) = noises(0, 1), noises(0, 2), noises(5, 1)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, two)


def test_every_parameter_gets_noise_of_its_own_and_of_the_right_size():
    zeros = {f"tail.{i}": torch.zeros(200, 50) for i in range(2)}
    still = {name: tensor + 1e-9 for name, tensor in zeros.items()}
    replies = [Reply(i, 10, still, weight=1.0) for i in range(3)]
    chosen = released(private()).settings
    moved, _ = aggregate(strategy_of(chosen, 1), zeros, replies, {})
    both = torch.cat([moved["tail.0"].flatten(), moved["tail.1"].flatten()])
    assert both.std().item() == pytest.approx(1.5 * 0.5 / 3, rel=0.03)
    assert abs(both.mean().item()) < 0.01
    assert not torch.equal(moved["tail.0"], moved["tail.1"])


def test_fedprox_keeps_its_side_at_the_clients():
    flat = private().flat() | {"strategy.name": "fedprox", "strategy.mu": 3.0}
    proximal, plain = released(Settings.from_flat(flat)), Federation(settings("fedprox", mu=3.0))
    proximal.round()
    plain.round()
    assert all(torch.equal(one, other) for one, other in zip(ends(proximal), ends(plain), strict=True))


def epsilon(noise_multiplier, releases, delta):
    """Of releases with Gaussian noise, by Renyi differential privacy: the least over the orders a of
    n a / (2 sigma^2) + log(1 - 1 / a) - log(delta a) / (a - 1) (Canonne, Kamath, Steinke 2020, Prop. 12)."""
    orders = np.linspace(1.01, 200, 200_000)
    spent = releases * orders / (2 * noise_multiplier**2)
    return float((spent + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)).min())


@pytest.mark.parametrize(("noise_multiplier", "delta"), [(1.0, 1e-5), (3.0, 1e-3), (0.5, 1e-6)])
def test_the_epsilon_is_that_of_all_releases_so_far(noise_multiplier, delta):
    flat = private(noise_multiplier=noise_multiplier, delta=delta).flat()
    chosen = Settings.from_flat(flat | {"rounds.distill": 2, "rounds.finetune": 2})
    # Private start, two distillation rounds, a private pass, two fine-tuning rounds.
    for rounds, releases in ((2, 1), (3, 2), (4, 2), (5, 3), (6, 4)):
        spent = account(chosen, rounds).get_privacy_spent()
        assert spent.num_releases == releases
        # Flower's accountant looks at some orders only, and so is not below the least of all.
        assert epsilon(noise_multiplier, releases, delta) <= spent.epsilon * (1 + 1e-9)
        assert spent.epsilon == pytest.approx(epsilon(noise_multiplier, releases, delta), rel=0.01)


def test_a_share_of_the_clients_makes_nothing_cheaper():
    some = Settings.from_flat(private().flat() | {"strategy.fraction": 0.4})
    assert account(some, 5).get_privacy_spent().epsilon == account(private(), 5).get_privacy_spent().epsilon


def test_a_round_that_lacks_a_client_is_not_released():
    federation = released(private())
    with pytest.raises(RunFailed, match=r"^round 2: 2 of 3 clients"):
        federation.round(clients=(0, 2))


def test_a_client_that_did_not_move_is_told_of():
    replies = [Reply(i, 10, {NAME: START.clone()}) for i in range(3)]
    with pytest.raises(RunFailed, match="has not moved"):
        aggregate(strategy_of(released(private()).settings, 1), {NAME: START}, replies, {})


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("strategy.name", "fedadam", "'fedavg' or 'fedprox'"),
        ("strategy.name", "tests.test_strategies:Halving", "'fedavg' or 'fedprox'"),
        ("strategy.weights", "samples", "'uniform'"),
        ("rounds.warm_start", 2, "0"),
        ("base.batch_norm", "aggregate", "'frozen' or 'local'"),
        ("method", "local", "another method"),
        ("strategy.sampling", "size", "'uniform'"),
        ("strategy.dropout", 0.1, "0"),
        ("strategy.late", 0.1, "0"),
        ("strategy.noise_multiplier", 1e-9, "0 (off), or 0.001 to 1000"),
    ],
)
def test_what_breaks_the_guarantee_is_refused_in_one_line(key, value, allowed):
    with pytest.raises(SettingsError) as caught:
        Settings.from_flat(private().flat() | {key: value})
    said = str(caught.value)
    assert said.startswith(f"{key} = {value!r}: strategy.noise_multiplier = ")
    assert said.endswith(f"allowed: {allowed}")
    assert "\n" not in said


# Whole federations


@pytest.fixture(scope="module")
def shared_start(federate, tiny_settings, tmp_path_factory):
    """A warm start for the runs of this module: its training is the longer part of a tiny run."""
    few = {"rounds.distill": 0, "rounds.evaluate_every": 0}
    begun = federate(tiny_settings(few | {"rounds.finetune": 0}), tmp_path_factory.mktemp("start") / "run")
    return few | {"warm_start.weights": str(begun.run.path / "warm_start.safetensors"), "rounds.warm_start": 0}


@pytest.fixture(scope="module")
def averaged(federate, tiny_settings, shared_start, tmp_path_factory):
    return federate(tiny_settings(shared_start), tmp_path_factory.mktemp("fedavg") / "run").run.shared()


def test_clients_that_moved_little_are_matched_as_they_are(federate, tiny_settings, shared_start, averaged, tmp_path):
    federated = federate(tiny_settings(shared_start | {"strategy.name": "fedma"}), tmp_path / "run")
    shared = federated.run.shared()
    assert all(torch.equal(shared[key], averaged[key]) for key in averaged)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy.name": "fedadam"},
        {"strategy.noise_multiplier": 1.0, "strategy.clip": 0.1, "strategy.weights": "uniform"},
    ],
    ids=["fedadam", "privacy"],
)
def test_a_run_that_was_stopped_in_and_after_every_round_ends_with_the_same_bytes(
    changes, federate, go_on, tiny_settings, shared_start, stop_in_and_after_every_round, results, tmp_path
):
    chosen = tiny_settings(shared_start | changes | {"rounds.distill": 1, "rounds.finetune": 2})
    expected = federate(chosen, tmp_path / "alone")
    setup = prepare(chosen)
    run = RunDirectory.create(tmp_path / "stopped", chosen, setup.partition, setup.identity)
    stop_in_and_after_every_round(run, chosen)
    assert go_on(run, chosen).ended_by is None
    assert results(run) == results(expected.run)
    assert run.memory().keys() == expected.run.memory().keys()
    assert all(torch.equal(tensor, run.memory()[key]) for key, tensor in expected.run.memory().items())
    spent = [[row.get("epsilon") for row in one.rows() if row["client"] is None] for one in (run, expected.run)]
    assert spent[0] == spent[1]


def test_a_private_run_does_not_begin_without_a_client_that_every_round_needs(
    go_on, tiny_settings, shared_start, tmp_path
):
    changes = {"strategy.noise_multiplier": 1.0, "strategy.clip": 0.1, "strategy.weights": "uniform"}
    chosen = tiny_settings(shared_start | changes)
    setup = prepare(chosen)
    run = RunDirectory.create(tmp_path / "run", chosen, setup.partition, setup.identity)
    ended_by = go_on(run, chosen, app=FaultyClients({(0, "train", 1): "raises"})).ended_by
    assert isinstance(ended_by, RunFailed)
    assert "2 of 3 clients gave a good reply, with strategy.noise_multiplier above 0 all must" in str(ended_by)
    assert go_on(run, chosen).ended_by is None


def test_the_epsilon_stands_in_every_round_that_releases_something(federate, tiny_settings, shared_start, tmp_path):
    changes = {"strategy.noise_multiplier": 1.0, "strategy.clip": 0.1, "strategy.weights": "uniform"}
    chosen = tiny_settings(shared_start | changes | {"rounds.distill": 1})
    run = federate(chosen, tmp_path / "run").run
    rows = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    spent = {row["round"]: (row["epsilon"], row["delta"]) for row in rows if "epsilon" in row}
    # Private start, distillation, private pass, fine-tuning.
    assert spent == {
        1: (account(chosen, 2).get_privacy_spent().epsilon, 1e-5),
        3: (account(chosen, 4).get_privacy_spent().epsilon, 1e-5),
    }
    assert all(row["client"] is None for row in rows if "epsilon" in row)
    # One row without a client a round, whatever it holds.
    without = [row["round"] for row in rows if row["client"] is None]
    assert without == sorted(set(without))
    assert f"({spent[3][0]:.3g}, 1e-05)-differentially private" in privacy(read_rounds(run.path / "rounds.jsonl"))


def test_without_noise_nothing_is_said_of_privacy(finished):
    assert not any("epsilon" in row for row in finished.run.rows())
    assert privacy(read_rounds(finished.run.path / "rounds.jsonl")) == ""
    assert privacy(read_rounds(finished.run.path / "missing.jsonl")) == ""
    assert isinstance(read_rounds(finished.run.path / "rounds.jsonl"), pd.DataFrame)
