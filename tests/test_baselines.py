"""The baselines without an early exit: what is shared, what is learnt, and that they are measured as ReBEL is."""

import copy
import json
import runpy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import clients.shard
from clients import whole_model
from clients.node import Node
from clients.shard import open_shard
from fed_rebel import tensor_file
from fed_rebel.cli import app
from fed_rebel.datasets import augment
from fed_rebel.runs import RunDirectory, private_file
from fed_rebel.settings import Settings, SettingsError
from fed_rebel.training.predict import accuracy_on_test
from fed_rebel.training.setup import prepare
from partitions import smoothed_shares
from strategy.messages import Order, Stage
from strategy.plan import plan

METHODS = ("fedavg", "fedper", "local")
CLIENTS = range(3)
LAST_LAYER = {"tail.fc.weight", "tail.fc.bias"}


@pytest.fixture(scope="module")
def baseline(tiny_settings):
    """The tiny settings for a baseline: `baseline("fedavg", {"seed": 1})`."""
    return lambda method, changes=None: tiny_settings({"method": method, "rounds.warm_start": 0} | (changes or {}))


@pytest.fixture(scope="module")
def runs(federate, baseline, tmp_path_factory):
    """A finished run of each baseline, to be read."""
    folder = tmp_path_factory.mktemp("baselines")
    return {method: federate(baseline(method), folder / method) for method in METHODS}


def private(run, client):
    return tensor_file.read(run.path / "private" / f"{client}.safetensors")


def table(run):
    return pd.read_csv(run.path / "clients.csv").set_index("client")


def names_shared(settings):
    """What a method shares of the base model, by the words of its paper."""
    names = set(prepare(settings).base.state_dict())
    return {"fedavg": names, "fedper": names - LAST_LAYER, "local": set()}[settings.method]


def is_statistic(name):
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


@dataclass(frozen=True)
class Said:
    """A message, in which stage and for what it was sent, `down` to a client or `up` from one."""

    stage: Stage
    kind: str
    direction: str
    client: int
    tensors: dict[str, torch.Tensor]


def said_in(federated):
    said, stage = [], None
    for message in federated.messages:
        is_reply, kind = bool(message.metadata.reply_to_message_id), message.metadata.message_type
        if kind == "query":
            continue
        if not is_reply:
            stage, asked = Stage(message.content.config_records["order"]["stage"]), kind
        node = message.metadata.src_node_id if is_reply else message.metadata.dst_node_id
        tensors = dict(message.content.array_records["tensors"].to_torch_state_dict())
        said.append(Said(stage, asked, "up" if is_reply else "down", node - 2, tensors))
    return said


# The same rounds over the same images


@pytest.mark.parametrize("method", METHODS)
def test_a_baseline_has_as_many_rounds_as_rebel_and_the_same_clients_train(method):
    rounds = {"rounds.distill": 2, "rounds.finetune": 3, "rounds.evaluate_every": 2}
    rebel, baseline = plan(Settings.from_flat(rounds)), plan(Settings.from_flat(rounds | {"method": method}))
    assert [step.stage for step in baseline] == [Stage.PRIVATE_START] + [Stage.WHOLE] * 6
    for ours, theirs in zip(rebel, baseline, strict=True):
        assert (ours.number, ours.evaluate, ours.last, ours.everyone) == (
            theirs.number,
            theirs.evaluate,
            theirs.last,
            theirs.everyone,
        )


def test_a_baseline_sees_the_images_that_rebel_sees(federate, tiny_settings, tmp_path, monkeypatch):
    real, seen = clients.shard.training_batches, {}

    def watched(*args, **kwargs):
        for images, labels in real(*args, **kwargs):
            seen.setdefault(method, []).append((images.sum().item(), labels.tolist()))
            yield images, labels

    monkeypatch.setattr(clients.shard, "training_batches", watched)
    changes = {"strategy.fraction": 0.5, "rounds.warm_start": 0, "train.local_epochs": 2, "rounds.evaluate_every": 0}
    for method in ("rebel", "fedavg"):
        federate(tiny_settings(changes | {"method": method}), tmp_path / method)
    # Two clients in distillation, three in the private pass, two in fine-tuning; two epochs of one batch each.
    assert len(seen["rebel"]) == (2 + 3 + 2) * 2
    assert seen["rebel"] == seen["fedavg"]


# What is shared


@pytest.mark.parametrize("method", METHODS)
def test_what_is_shared_is_sent_and_nothing_else(runs, method):
    shared = names_shared(runs[method].settings)
    base = set(prepare(runs[method].settings).base.state_dict())
    assert set(runs[method].run.shared()) == shared
    for client in CLIENTS:
        assert set(private(runs[method].run, client)) == base - shared
    said = said_in(runs[method])
    assert {one.stage for one in said} == {Stage.PRIVATE_START, Stage.WHOLE}
    for one in said:
        nothing = one.stage is Stage.PRIVATE_START or one.kind == "evaluate"
        if one.direction == "up":  # BatchNorm's statistics, which are frozen, need no averaging
            assert set(one.tensors) == (set() if nothing else {name for name in shared if not is_statistic(name)})
        else:
            assert set(one.tensors) == (set() if (one.stage, one.kind) == (Stage.PRIVATE_START, "train") else shared)


@pytest.mark.parametrize("method", METHODS)
def test_bytes_are_those_of_the_tensors_sent(runs, method):
    counted = {
        (row["round"] > 0, row["client"], way): 0
        for row in runs[method].run.rows()
        if row["client"] is not None
        for way in ("down", "up")
    }
    told = dict(counted)
    for row in runs[method].run.rows():
        for way in ("down", "up"):
            if row["client"] is not None:
                told[row["round"] > 0, row["client"], way] += row[f"bytes_{way}"]
    for one in said_in(runs[method]):
        counted[one.stage is Stage.WHOLE, one.client, one.direction] += sum(t.nbytes for t in one.tensors.values())
    assert told == counted
    assert (sum(told.values()) == 0) == (method == "local")


@pytest.mark.parametrize("method", METHODS)
def test_private_tensors_grow_apart(runs, method):
    start = prepare(runs[method].settings).base.state_dict()
    own = [private(runs[method].run, client) for client in CLIENTS]
    trained = [name for name in own[0] if not is_statistic(name)]
    for name in trained:
        assert not torch.equal(own[0][name], own[1][name])
        assert not torch.equal(own[0][name], start[name])
    assert all(torch.equal(own[0][name], start[name]) for name in own[0] if is_statistic(name))


def test_batch_norm_s_own_statistics_and_optimisers_are_kept_privately(federate, baseline, tmp_path):
    changes = {"base.batch_norm": "local", "rounds.evaluate_every": 0}
    settings = baseline("fedavg", changes | {"train.keep_optimisers": True})
    federated = federate(settings, tmp_path / "run")
    own = [private(federated.run, client) for client in CLIENTS]
    statistics = {name for name in own[0] if name.endswith(("running_mean", "running_var"))}
    parameters = {name for name, _ in prepare(settings).base.named_parameters()}
    assert set(own[0]) == statistics | {f"sgd.{name}.momentum_buffer" for name in parameters}
    assert not any(torch.equal(own[0][name], own[1][name]) for name in statistics)
    for one in said_in(federated):
        assert not statistics & set(one.tensors)
        assert not any(name.startswith("sgd.") for name in one.tensors)
    afresh = federate(baseline("fedavg", changes), tmp_path / "afresh")
    name = "tail.fc.weight"
    assert not torch.equal(afresh.run.shared()[name], federated.run.shared()[name])


# What is learnt


def by_hand(settings, shard, log_shares):
    """One round of one client: Nesterov's momentum and weight decay as they are written down, float64 weights."""
    setup, train = prepare(settings), settings.train
    model = copy.deepcopy(setup.base).double()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())
    velocity = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    rng = np.random.default_rng([settings.seed, shard.client, 1, 0])
    steps = 0
    for images, labels in clients.shard.training_batches(setup.dataset, shard.train, train.batch_size, rng):
        leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        logits = torch.func.functional_call(model.eval(), {**leaves, **buffers}, images.double()) + log_shares
        loss = torch.stack([logits[i].logsumexp(0) - logits[i, label] for i, label in enumerate(labels)]).mean()
        for (name, leaf), gradient in zip(
            leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True
        ):
            step = gradient + 5e-4 * leaf.detach()
            velocity[name] = step if not steps else 0.9 * velocity[name] + step
            weights[name] = leaf.detach() - train.finetune_rate * (step + 0.9 * velocity[name])
        steps += 1
    assert steps == -(-len(shard.train) // train.batch_size)
    return weights


@pytest.mark.parametrize("method", METHODS)
def test_a_round_is_sgd_on_each_client_and_the_weighted_mean_of_what_is_shared(federate, baseline, tmp_path, method):
    changes = {
        "partition.clients": 2,
        "partition.quantity": "log-normal",
        "rounds.distill": 0,
        "train.batch_size": 16,
        "train.finetune_rate": 0.05,
        "engine.precision": "float32",
        "rounds.evaluate_every": 0,
    }
    settings = baseline(method, changes)
    run = federate(settings, tmp_path / "run").run
    shards = prepare(settings).partition.shards
    assert len(shards[0].train) != len(shards[1].train)
    expected = []
    for shard in shards:
        counts = np.bincount(prepare(settings).dataset.train.labels[shard.train], minlength=5)
        # Logit adjustment is for a last layer that is shared.
        log_shares = np.log(smoothed_shares(counts)) if method == "fedavg" else np.zeros(5)
        expected.append(by_hand(settings, shard, torch.from_numpy(log_shares)))
    sizes = [len(shard.train) for shard in shards]
    for name in expected[0]:
        if name in names_shared(settings):
            mean = sum(size * weights[name] for size, weights in zip(sizes, expected, strict=True)) / sum(sizes)
            torch.testing.assert_close(run.shared()[name].double(), mean, rtol=1e-4, atol=2e-5)
        else:
            for client, weights in enumerate(expected):
                torch.testing.assert_close(private(run, client)[name].double(), weights[name], rtol=1e-4, atol=2e-5)


def test_a_client_that_trains_alone_does_not_depend_on_the_others(runs, baseline, tmp_path):
    settings = baseline("local")
    setup = prepare(settings)
    run = RunDirectory.create(tmp_path / "run", settings, setup.partition, setup.identity)
    for step in plan(settings):
        run.begin_round(step.number)
        outbox = run.new_outbox(step.number)
        order = Order(settings, str(run.path), str(outbox.path), step.number, step.stage, 0, step.last, {})
        reply = whole_model.train(order, open_shard(order, Node(1)))
        assert not reply.tensors
        run.accept(step.number, outbox, [1])
    alone = tensor_file.read(private_file(run.path, step.number, 1))
    together = private(runs["local"].run, 1)
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[name], together[name]) for name in alone)


# What is measured


@pytest.mark.parametrize("method", METHODS)
def test_the_table_pretends_nothing_local(runs, method):
    run = runs[method].run
    predictions, clients = pd.read_parquet(run.path / "predictions.parquet"), table(run)
    assert (predictions[["local_label", "confidence", "score"]] == [-1, 0, 0]).all(axis=None)
    assert (clients["coverage"] == 0).all()
    assert (clients["gain"] == 0).all()
    assert clients[[name for name in clients if name.startswith(("local_", "overall_at_"))]].isna().all(axis=None)
    test = predictions[predictions["split"] == "test"]
    for client, own in test.groupby("client"):
        for column, answers in (("remote_acc", "remote_label"), ("remote_acc_prior", "remote_prior_label")):
            assert clients.loc[client, column] == pytest.approx((own[answers] == own["label"]).mean())
    for line in (run.path / "rounds.jsonl").read_text().splitlines():
        row = json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert "local_acc" not in row


def test_the_answers_are_those_of_the_client_s_own_and_the_shared_tensors(runs):
    federated = runs["fedper"]
    setup = prepare(federated.settings)
    predictions = pd.read_parquet(federated.run.path / "predictions.parquet")
    for shard in setup.partition.shards:
        tensors = federated.run.shared() | private(federated.run, shard.client)
        images = augment.batch(setup.dataset.test.images[shard.test], setup.dataset.normalisation)
        with torch.inference_mode(), setup.compute.autocast():
            logits = torch.func.functional_call(setup.base.eval(), tensors, images)
        own = predictions[(predictions["client"] == shard.client) & (predictions["split"] == "test")]
        assert own["image"].tolist() == shard.test.tolist()
        assert own["remote_label"].tolist() == logits.float().argmax(1).tolist()
        counts = np.bincount(setup.dataset.train.labels[shard.train], minlength=5)
        corrected = logits.float() + torch.from_numpy(np.log(smoothed_shares(counts))).float()
        assert own["remote_prior_label"].tolist() == corrected.argmax(1).tolist()


def test_the_global_model_is_measured_where_there_is_one(runs):
    for method in METHODS:
        balanced = [row["balanced_acc"] for row in runs[method].run.rows() if row["client"] is None]
        assert len(balanced) == (4 if method == "fedavg" else 0)
    setup = prepare(runs["fedavg"].settings)
    first = next(row["balanced_acc"] for row in runs["fedavg"].run.rows() if row["client"] is None)
    assert first == pytest.approx(accuracy_on_test(setup.base, setup.dataset, setup.compute))


# From beginning to end


@pytest.mark.parametrize(
    ("method", "changes"),
    [("fedavg", {}), ("fedper", {"train.keep_optimisers": True, "base.batch_norm": "local"}), ("local", {})],
)
def test_a_baseline_stopped_in_and_after_its_rounds_ends_as_one_left_alone(
    federate, baseline, go_on, stop_in_and_after_every_round, tmp_path, results, method, changes
):
    settings = baseline(method, {"rounds.distill": 0, "rounds.finetune": 2, **changes})
    whole = federate(settings, tmp_path / "whole").run
    setup = prepare(settings)
    run = RunDirectory.create(tmp_path / "run", settings, setup.partition, setup.identity)
    stop_in_and_after_every_round(run, settings)
    assert go_on(run, settings).ended_by is None
    assert results(run) == results(whole)
    rows, expected = ([row | {"seconds": 0} for row in r.rows()] for r in (run, whole))
    assert rows == expected


@pytest.mark.parametrize("method", METHODS)
def test_a_run_of_a_baseline_ends_with_a_report(tiny_changes, tmp_path, method):
    # Neither trained nor looked up: a warm start that is not there does not matter.
    changes = {"method": method, "rounds.warm_start": 0, "rounds.distill": 0, "warm_start.weights": "no/such/file"}
    given = [f"--set={key}={json.dumps(value)}" for key, value in (tiny_changes | changes).items()]
    done = CliRunner().invoke(app, ["simulate", *given, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "warm_start.safetensors").exists()
    shown = next(line for line in done.output.splitlines() if line.strip().startswith("mean"))
    assert "nan" not in done.output
    assert "–" in shown  # noqa: RUF001
    again = CliRunner().invoke(app, ["resume", str(tmp_path / "run")])
    assert again.exit_code == 0, again.output


def test_the_example_s_table_takes_them(runs, capsys):
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "alpha_table.py"))
    example["main"]([str(runs[method].run.path) for method in METHODS])
    told = dict(line.strip("| ").split(" | ", 1) for line in capsys.readouterr().out.splitlines()[2:])
    assert told["seeds"] == "3"
    assert told["local"] == "–"  # noqa: RUF001


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_start_of_a_baseline_is_refused(method):
    with pytest.raises(SettingsError, match=rf"^rounds.warm_start = 2: method = '{method}' .* allowed: 0, or") as error:
        Settings.from_flat({"method": method, "rounds.warm_start": 2})
    assert "\n" not in str(error.value)
