"""Who takes part: clients that fail or are late, and newcomers that are met when training is over."""

import pandas as pd
import pytest
import torch
from faulty_clients import FaultyClients
from safetensors.torch import load_file

from fed_rebel.report import write_report
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import SettingsError
from fed_rebel.training.setup import prepare
from strategy.messages import Order, Stage
from strategy.participation import draw
from strategy.plan import plan

UNRELIABLE = {
    "strategy.dropout": 0.4,
    "strategy.late": 0.5,
    "strategy.late_replies": "next",
    "strategy.name": "scaffold",
    "rounds.distill": 3,
    "rounds.finetune": 2,
    "rounds.evaluate_every": 0,
}
SIZES = dict.fromkeys(range(3), 24)


@pytest.fixture(scope="module")
def unreliable(federate, tiny_settings, tmp_path_factory):
    return federate(tiny_settings(UNRELIABLE), tmp_path_factory.mktemp("unreliable") / "run")


def test_who_fails_does_not_train_and_who_is_late_is_said_to_be(unreliable):
    rows = pd.DataFrame(unreliable.run.rows())
    seen = set()
    for step in plan(unreliable.settings):
        own = rows[(rows["round"] == step.number) & rows["client"].notna()]
        if step.everyone:
            assert sorted(own["client"]) == [0, 1, 2]
            continue
        who = draw(unreliable.settings, SIZES, step.number)
        assert own.loc[own["fault"].notna(), "client"].tolist() == who.failed
        assert own.loc[own["late"].notna(), "client"].tolist() == who.late
        assert own.loc[own["samples"].notna(), "client"].tolist() == who.trained
        seen |= {name for name in ("late", "failed") if getattr(who, name)}
    assert seen == {"late", "failed"}


def test_late_replies_count_in_the_next_round(unreliable, federate, tiny_settings, tmp_path):
    dropped = federate(tiny_settings(UNRELIABLE | {"strategy.late_replies": "drop"}), tmp_path / "run")
    used, ignored = (load_file(run.run.path / "shared.safetensors") for run in (unreliable, dropped))
    assert any(not torch.equal(used[name], ignored[name]) for name in used)


def test_a_run_with_late_replies_that_was_stopped_ends_with_the_same_bytes(
    unreliable, stop_in_and_after_every_round, go_on, tmp_path
):
    settings = unreliable.settings
    setup = prepare(settings)
    run = RunDirectory.create(tmp_path / "run", settings, setup.partition, setup.identity)
    stop_in_and_after_every_round(run, settings)
    go_on(run, settings)
    for name in ("shared.safetensors", "clients.csv", *(f"private/{client}.safetensors" for client in range(3))):
        assert (run.path / name).read_bytes() == (unreliable.run.path / name).read_bytes(), name


def test_where_nobody_comes_in_time_those_count_who_waited_and_those_wait_who_came_late(tiny_settings, go_on, tmp_path):
    settings = tiny_settings(UNRELIABLE | {"rounds.warm_start": 0, "strategy.name": "fedavg", "strategy.dropout": 0.0})
    who = {step.number: draw(settings, SIZES, step.number) for step in plan(settings) if step.stage is Stage.DISTILL}
    number = next(number for number in who if number - 1 in who and who[number - 1].late and who[number].late)
    setup = prepare(settings)
    run = RunDirectory.create(tmp_path / "run", settings, setup.partition, setup.identity)
    waiting, shared = {}, {}

    def look(ended, run):
        waiting[ended] = {int(name.split(".")[1]) for name in run.memory() if name.startswith("late.")}
        shared[ended] = run.shared()

    faulty = FaultyClients({(number, "train", client): "raises" for client in who[number].on_time})
    assert go_on(run, settings, look, app=faulty).ended_by is None
    assert waiting[number - 1] == set(who[number - 1].late)
    assert waiting[number] == set(who[number].late)
    assert any(not torch.equal(tensor, shared[number][name]) for name, tensor in shared[number - 1].items())


def test_newcomers_that_are_fewer_than_the_replies_a_round_needs_are_met(federate, tiny_settings, tmp_path):
    few = {"partition.newcomers": 1, "strategy.min_replies": 2, "rounds.warm_start": 0, "rounds.finetune": 0}
    met = federate(tiny_settings(few | {"rounds.evaluate_every": 0}), tmp_path / "run")
    assert pd.read_csv(met.run.path / "newcomers.csv")["client"].tolist() == [2]


@pytest.fixture(scope="module")
def joined(federate, tiny_settings, tmp_path_factory):
    settings = tiny_settings({"partition.clients": 4, "partition.newcomers": 2, "early.prior": "none"})
    return federate(settings, tmp_path_factory.mktemp("joined") / "run")


def test_newcomers_hear_nothing_until_the_others_have_trained(joined):
    told = {
        (order.stage, message.metadata.dst_node_id - 2)
        for message in joined.messages
        if "order" in message.content.config_records
        for order in [Order.from_record(message.content)]
    }
    assert {client for stage, client in told if stage != "newcomers"} == {0, 1}
    # All are evaluated in the last round, and the newcomers train before.
    assert {client for stage, client in told if stage == "newcomers"} == {0, 1, 2, 3}


def test_newcomers_are_measured_on_their_own(joined):
    clients, newcomers = (pd.read_csv(joined.run.path / f"{name}.csv") for name in ("clients", "newcomers"))
    assert clients["client"].tolist() == [0, 1]
    assert newcomers["client"].tolist() == [2, 3]
    assert list(newcomers) == list(clients)
    assert newcomers["remote_acc"].notna().all()
    assert set(pd.read_parquet(joined.run.path / "predictions.parquet")["client"]) == {0, 1}
    rows = pd.DataFrame(joined.run.rows())
    assert set(rows.loc[rows["stage"] == "newcomers", "client"].dropna()) == {2, 3}


def test_the_report_tells_of_newcomers(joined):
    page = write_report(joined.run.path).read_text(encoding="utf-8")
    newcomers = pd.read_csv(joined.run.path / "newcomers.csv")
    assert "2 newcomers, met when training was over" in page
    assert f"{100 * newcomers['remote_acc'].mean():.1f}\N{NO-BREAK SPACE}% by the server" in page


def test_a_newcomer_starts_from_the_warm_start_and_trains_once(joined):
    warm = load_file(joined.run.path / "warm_start.safetensors")
    mine = load_file(joined.run.path / "private" / "3.safetensors")
    weights = [name for name in mine if name.startswith("head1.")]
    moved = max((mine[name] - warm[name]).abs().max().item() for name in weights)
    # A pass of Adam moves no weight by more than its steps times the learning rate.
    steps = -(-24 // joined.settings.train.batch_size)
    assert 0 < moved <= steps * joined.settings.train.distill_rate * 1.01


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"partition.newcomers": 3}, r"partition\.newcomers = 3: .* allowed: 0 to 2"),
        ({"partition.newcomers": 1, "method": "fedavg", "rounds.warm_start": 0}, r"method = 'fedavg' has no private"),
        ({"strategy.dropout": 1.0}, r"strategy\.dropout = 1\.0: .* at least 0 and below 1"),
    ],
)
def test_what_cannot_be_is_refused(tiny_settings, changes, says):
    with pytest.raises(SettingsError, match=says):
        tiny_settings(changes)
