"""Against the drift of clients: clipping, the pull to the warm start, equal steps, absent classes left out."""

import pytest
import torch
from safetensors.torch import load_file

from fed_rebel.settings import SettingsError
from fed_rebel.training.drift import clip, pull

START = torch.tensor([3.0, -4.0])


@pytest.mark.parametrize(("norm", "length"), [(1.0, 1.0), (20.0, 5.0)])
def test_a_gradient_longer_than_the_norm_is_shortened_to_it(norm, length):
    w = torch.nn.Parameter(torch.zeros(2))
    optimiser = torch.optim.SGD([w], lr=1.0)
    clip(optimiser, norm)
    w.grad = START.clone()
    optimiser.step()
    torch.testing.assert_close(w.detach(), -START / START.norm() * length)


def test_the_pull_is_the_gradient_of_half_the_squared_distance():
    w = torch.nn.Parameter(START.clone())
    towards = torch.tensor([1.0, 1.0])
    optimiser = torch.optim.SGD([w], lr=0.1)
    pull(optimiser, {"w": w}, {"w": towards}, 0.6)
    by_hand = torch.nn.Parameter(START.clone())
    for _ in range(3):
        w.grad = torch.full((2,), 0.2)
        optimiser.step()
        loss = 0.2 * by_hand.sum() + 0.6 / 2 * (by_hand - towards).square().sum()
        (gradient,) = torch.autograd.grad(loss, by_hand)
        by_hand.data -= 0.1 * gradient
    torch.testing.assert_close(w, by_hand)


@pytest.fixture(scope="module")
def runs(federate, tiny_settings, tmp_path_factory):
    """A tiny run with some changes: its private states by client, and its rows."""

    def run(**changes):
        place = tmp_path_factory.mktemp("drift") / "run"
        short = {"partition.alpha": 0.1, "rounds.finetune": 0, "rounds.evaluate_every": 0}
        done = federate(tiny_settings(short | changes), place)
        states = [load_file(place / "private" / f"{client}.safetensors") for client in range(3)]
        return states, done.run.rows()

    return run


def distance(states):
    """How far the clients' Head1s are from one another."""
    return sum((a[name] - b[name]).norm().item() for a in states for b in states for name in a if "head1" in name)


def test_the_pull_keeps_the_heads_of_clients_nearer_to_one_another(runs):
    fast = {"train.distill_rate": 3e-3}
    free, _ = runs(**fast)
    drawn, _ = runs(**fast, **{"train.head1_pull": 10.0})
    assert distance([{n: t for n, t in state.items() if not n.startswith("warm.")} for state in drawn]) < distance(free)


def test_with_local_steps_every_client_takes_as_many(federate, tiny_settings, tmp_path):
    sizes = {"partition.quantity": "dirichlet", "partition.quantity_skew": 0.5, "train.batch_size": 8}
    done = federate(tiny_settings(sizes | {"train.local_steps": 3, "strategy.name": "fednova"}), tmp_path / "run")
    assert len({row["samples"] for row in done.run.rows() if row.get("samples")}) > 1
    lengths = [m.content.array_records["beside"] for m in done.messages if "reply" in m.content.metric_records]
    found = [float(record.to_torch_state_dict()["length"]) for record in lengths if "length" in record]
    # Adam's length is its number of steps, in one distillation round; SGD's in the fine-tuning one is the same for all.
    assert found[:3] == pytest.approx([3, 3, 3], rel=1e-5)
    assert len(found) == 6
    assert len(set(found[3:])) == 1


def test_with_absent_classes_left_out_the_early_loss_is_that_of_fewer_classes(runs):
    def early_loss(rows):
        return [row["loss_early"] for row in rows if row["stage"] == "distill" and row["client"] is not None]

    _, everything = runs(**{"early.prior": "none"})
    _, present = runs(**{"early.prior": "none", "train.mask_absent": True})
    assert all(few < all_ for few, all_ in zip(early_loss(present), early_loss(everything), strict=True))


def test_a_pull_on_a_head_that_nobody_trains_is_refused(tiny_settings):
    with pytest.raises(SettingsError, match=r"train\.head1_pull = 0\.1: .* head1 = 'frozen'"):
        tiny_settings({"train.head1_pull": 0.1, "head1": "frozen"})
