"""Each strategy against a slow plain derivation of its update, and against federated averaging where both agree."""

import pytest
import torch

from fed_rebel.settings import Settings, SettingsError
from fed_rebel.tensor_file import Tensors
from strategy.fedavg import AtClient, FedAvg
from strategy.messages import Reply
from strategy.strategies import OURS, aggregate, strategy_of

NAME = "tail.weight"
START = torch.tensor([1.0, -2.0, 0.5])
CENTRES = [torch.tensor([3.0, 1.0, 0.0]), torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([0.0, -4.0, 1.0])]
CURVATURES = [0.5, 1.0, 2.0]
WEIGHTS = [1.0, 2.0, 5.0]

OPTIMISERS = {
    "plain": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
}


def settings(name, **changes):
    return Settings.from_flat(
        {"strategy.name": name, "partition.clients": 3} | {f"strategy.{key}": value for key, value in changes.items()}
    )


def gradient(client, w):
    """Of the client's loss, curvature / 2 |w - centre|^2."""
    return CURVATURES[client] * (w - CENTRES[client])


class Federation:
    """Clients with a quadratic loss each, trained round after round by a strategy as the framework drives it."""

    def __init__(self, chosen, steps=(4, 4, 4), optimiser="plain"):
        self.settings, self.steps, self.optimiser = chosen, steps, OPTIMISERS[optimiser]
        self.state: Tensors = {NAME: START.clone()}
        self.memory: Tensors = {}
        self.kept: dict[int, Tensors] = {}
        self.replies: list[Reply] = []
        self.rounds = 0

    def round(self, clients=(0, 1, 2)):
        strategy = strategy_of(self.settings, self.rounds)
        beside = strategy.beside(self.memory)
        self.replies = []
        for client in clients:
            w = torch.nn.Parameter(self.state[NAME].clone())
            optimiser = self.optimiser([w])
            side = strategy.at_client({NAME: w}, optimiser, beside, self.kept.get(client, {}))
            for _ in range(self.steps[client]):
                w.grad = gradient(client, w.detach())
                optimiser.step()
            self.kept[client] = side.kept()
            sent = {NAME: w.detach().clone()}
            weight = 1.0 if self.settings.strategy.weights == "uniform" else WEIGHTS[client]
            self.replies.append(Reply(client, 10, sent, weight=weight, beside=side.beside()))
        self.state, self.memory = aggregate(strategy, self.state, self.replies, self.memory)
        self.rounds += 1
        return self.state[NAME]


def mean(tensors, clients=(0, 1, 2)):
    total = sum(WEIGHTS[client] for client in clients)
    return sum(WEIGHTS[client] / total * tensor for client, tensor in zip(clients, tensors, strict=True))


def test_fedprox_s_step_descends_the_loss_and_the_proximal_term():
    federation = Federation(settings("fedprox", mu=0.7))
    found = federation.round()
    ends = []
    for client in range(3):
        w = START.clone()
        for _ in range(4):
            w = w - 0.1 * (gradient(client, w) + 0.7 * (w - START))
        ends.append(w)
    torch.testing.assert_close(found, mean(ends))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_fedprox_without_its_term_is_federated_averaging(optimiser):
    averaging = Federation(settings("fedavg"), optimiser=optimiser)
    proximal = Federation(settings("fedprox", mu=0.0), optimiser=optimiser)
    for _ in range(3):
        assert torch.equal(averaging.round(), proximal.round())


def test_fednova_averages_changes_a_step_with_plain_sgd():
    steps = (1, 3, 7)
    federation = Federation(settings("fednova"), steps)
    found = federation.round()
    changes = [reply.tensors[NAME] - START for reply in federation.replies]
    shares = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    effective = sum(share * tau for share, tau in zip(shares, steps, strict=True))
    expected = START + effective * sum(p * c / tau for p, c, tau in zip(shares, changes, steps, strict=True))
    torch.testing.assert_close(found, expected)


def test_fednova_s_length_with_momentum_is_the_paper_s():
    # |a|_1 = (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho), Wang et al. 2020, below Eq. 8.
    federation = Federation(settings("fednova"), (1, 3, 7), "momentum")
    federation.round()
    rho = 0.9
    for reply, tau in zip(federation.replies, (1, 3, 7), strict=True):
        expected = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
        assert reply.beside["length"].item() == pytest.approx(expected)


def test_fednova_s_length_is_that_of_the_accumulated_coefficients_of_the_gradients():
    # The change of SGD with Nesterov momentum is linear in the gradients: its coefficients, found one by one.
    steps = 5
    coefficients = []
    for at in range(steps):
        w = torch.nn.Parameter(torch.zeros(1))
        optimiser = OPTIMISERS["nesterov"]([w])
        for step in range(steps):
            w.grad = torch.tensor([1.0 if step == at else 0.0])
            optimiser.step()
        coefficients.append(-w.item() / 0.05)
    federation = Federation(settings("fednova"), (steps,) * 3, "nesterov")
    federation.round()
    assert federation.replies[0].beside["length"].item() == pytest.approx(sum(coefficients), rel=1e-5)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_fednova_with_equal_steps_is_federated_averaging(optimiser):
    averaging = Federation(settings("fedavg"), optimiser=optimiser)
    nova = Federation(settings("fednova"), optimiser=optimiser)
    for _ in range(3):
        torch.testing.assert_close(averaging.round(), nova.round())


def test_adam_s_length_is_its_number_of_steps():
    federation = Federation(settings("fednova"), (1, 3, 7), "adam")
    federation.round()
    lengths = [reply.beside["length"].item() for reply in federation.replies]
    assert lengths == pytest.approx([1, 3, 7], rel=1e-5)


def test_scaffold_is_algorithm_1_with_its_second_option():
    federation = Federation(settings("scaffold"), (2, 4, 5))
    x, c, own = START.clone(), torch.zeros(3), [torch.zeros(3) for _ in range(3)]
    for clients in ((0, 1, 2), (0, 2), (1, 2), (0, 1, 2)):
        ends, changes = [], []
        for client in clients:
            y, steps = x.clone(), (2, 4, 5)[client]
            for _ in range(steps):
                y = y - 0.1 * (gradient(client, y) - own[client] + c)
            new = own[client] - c + (x - y) / (steps * 0.1)
            ends.append(y)
            changes.append(new - own[client])
            own[client] = new
        x = mean(ends, clients)
        c = c + len(clients) / 3 * mean(changes, clients)
        torch.testing.assert_close(federation.round(clients), x)
        torch.testing.assert_close(federation.memory[NAME], c)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_scaffold_s_first_round_is_federated_averaging(optimiser):
    averaging = Federation(settings("fedavg"), (2, 4, 5), optimiser)
    controlled = Federation(settings("scaffold"), (2, 4, 5), optimiser)
    assert torch.equal(averaging.round(), controlled.round())


def test_feddyn_is_algorithm_1():
    alpha = 0.3
    federation = Federation(settings("feddyn", mu=alpha), (2, 4, 5))
    x, h, own = START.clone(), torch.zeros(3), [torch.zeros(3) for _ in range(3)]
    for clients in ((0, 1, 2), (0, 2), (0, 1, 2)):
        ends = []
        for client in clients:
            w = x.clone()
            for _ in range((2, 4, 5)[client]):
                w = w - 0.1 * (gradient(client, w) - own[client] + alpha * (w - x))
            own[client] = own[client] - alpha * (w - x)
            ends.append(w)
        h = h - alpha * len(clients) / 3 * (mean(ends, clients) - x)
        x = mean(ends, clients) - h / alpha
        torch.testing.assert_close(federation.round(clients), x)


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_what_corrects_drift_comes_nearer_to_the_joint_optimum_than_averaging(name):
    # Of clients with unequal curvatures federated averaging rests at a point that is not the optimum.
    optimum = mean([CURVATURES[i] * CENTRES[i] for i in range(3)]) / mean([torch.tensor(c) for c in CURVATURES])
    averaging, corrected = Federation(settings("fedavg")), Federation(settings(name, mu=1.0))
    for _ in range(60):
        rest, found = averaging.round(), corrected.round()
    assert (found - optimum).norm() < 0.05 * (rest - optimum).norm()


@pytest.mark.parametrize("name", OURS)
def test_the_order_in_which_replies_arrive_changes_no_bit(name):
    federation = Federation(settings(name), (2, 4, 5))
    for _ in range(2):
        federation.round()
    strategy = strategy_of(federation.settings, 2)
    one = aggregate(strategy, federation.state, federation.replies, federation.memory)
    other = aggregate(strategy, federation.state, federation.replies[::-1], federation.memory)
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize("name", OURS)
def test_statistics_of_batchnorm_are_averaged_whatever_the_strategy(name):
    federation = Federation(settings(name), (2, 4, 5))
    federation.round()
    sent = [torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([2.0])]
    replies = [
        Reply(r.client, 10, r.tensors | {"tail.bn.running_var": own}, weight=r.weight, beside=r.beside)
        for r, own in zip(federation.replies, sent, strict=True)
    ]
    state = federation.state | {"tail.bn.running_var": torch.tensor([9.0])}
    new, memory = aggregate(strategy_of(federation.settings, 1), state, replies, federation.memory)
    torch.testing.assert_close(new["tail.bn.running_var"], mean(sent))
    assert not any("running" in key for key in memory)


class Halving(FedAvg):
    """A strategy from outside the project: half a step."""

    def aggregate(self, current, replies, memory):
        moved, memory = super().aggregate(current, replies, memory)
        return {name: (before + moved[name]) / 2 for name, before in current.items()}, memory


def test_a_strategy_of_one_s_own_is_named_by_its_import_path():
    averaging, halving = Federation(settings("fedavg")), Federation(settings("tests.test_strategies:Halving"))
    torch.testing.assert_close(halving.round(), (START + averaging.round()) / 2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:X", "No module named 'no_such_module'"),
        ("strategy.fedavg:Nothing", "has no attribute 'Nothing'"),
        ("strategy.messages:Reply", "a subclass of strategy.fedavg.FedAvg"),
    ],
)
def test_an_import_path_that_leads_to_no_strategy_is_said_in_one_line(name, says):
    with pytest.raises(SettingsError, match=says) as error:
        strategy_of(settings(name), 0)
    assert f"strategy.name = '{name}'" in str(error.value)


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(SettingsError, match=r"strategy\.name = 'fedsgd': not allowed; allowed: fedavg, fedprox"):
        settings("fedsgd")


def test_the_base_of_all_changes_nothing():
    w = torch.nn.Parameter(START.clone())
    optimiser = OPTIMISERS["plain"]([w])
    side = AtClient({NAME: w}, optimiser)
    w.grad = torch.ones(3)
    optimiser.step()
    torch.testing.assert_close(w.detach(), START - 0.1)
    assert (side.beside(), side.kept()) == ({}, {})
