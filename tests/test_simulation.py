"""Whole runs on Flower: what they leave, what is said in them, and that neither chance nor trouble changes them."""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

from clients.evaluation import spread
from clients.node import Node
from clients.shard import open_shard
from clients.training import train
from fed_rebel import files, tensor_file
from fed_rebel.exits import Target, calibrate
from fed_rebel.exits.calibrate import FEWEST_OF_A_CLASS
from fed_rebel.exits.rows import FEWEST_TO_CALIBRATE, client_rows
from fed_rebel.runs import RunDirectory
from fed_rebel.training.predict import accuracy_on_test
from fed_rebel.training.setup import prepare
from fed_rebel.training.warm_start import WarmStart, build_model
from partitions import Partition, gini, label_histogram, smoothed_shares
from strategy.messages import Order, Stage
from strategy.participation import choose_clients
from strategy.rounds import RunFailed

# The rounds of the tiny settings.
WARM_START, PRIVATE_START, DISTILL, PRIVATE_PASS, FINETUNE = range(5)
CLIENTS = range(3)

FILES = [
    "settings.toml",
    "environment.json",
    "partition.npz",
    "warm_start.safetensors",
    "rounds.jsonl",
    "clients.csv",
    "predictions.parquet",
    "shared.safetensors",
    "private/0.safetensors",
    "private/1.safetensors",
    "private/2.safetensors",
]
COLUMNS = [
    "client",
    "train_size",
    "val_size",
    "test_size",
    "classes",
    "gini",
    "local_acc",
    "local_acc_answered",
    "remote_acc",
    "remote_acc_sent",
    "overall_acc",
    "coverage",
    "threshold",
    "gain",
    "local_acc_start",
    "remote_acc_prior",
    "majority_acc",
]


def table(run):
    return pd.read_csv(run.path / "clients.csv").set_index("client")


def private(run, client):
    return tensor_file.read(run.path / "private" / f"{client}.safetensors")


def parts(tensors):
    return {name.split(".")[0] for name in tensors}


def same(one, other, prefix=""):
    """Whether the tensors under a prefix are the same bit for bit."""
    names = {name for name in one if name.startswith(prefix)}
    assert names
    return all(torch.equal(one[name], other[name]) for name in names)


def statistics(tensors):
    return {name: t for name, t in tensors.items() if name.endswith(("running_mean", "running_var"))}


# What a run leaves


def test_a_run_writes_every_file(finished):
    assert [name for name in FILES if not (finished.run.path / name).is_file()] == []
    opened, settings = RunDirectory.open(finished.run.path)
    assert settings == finished.settings
    assert opened.finished
    assert opened.rounds_done == 5
    partition = Partition.load(finished.run.path / "partition.npz")
    assert partition.fingerprint == prepare(finished.settings).partition.fingerprint
    # It stands in the results too: they are of this partition and of no other.
    assert set(table(finished.run)["partition"]) == {partition.fingerprint}
    assert finished.faults == []


def test_private_and_shared_parts_lie_in_files_of_their_own(finished):
    assert parts(finished.run.shared()) == {"head2", "tail"}
    for client in CLIENTS:
        assert parts(private(finished.run, client)) == {"head1", "code", "early"}
    warm_start = WarmStart.from_tensors(tensor_file.read(finished.run.path / "warm_start.safetensors"))
    assert parts(warm_start.tensors) == {"head1", "code", "early", "head2", "tail"}


def test_the_table_has_the_design_s_columns_and_a_row_a_client(finished):
    clients = table(finished.run).reset_index()
    assert set(COLUMNS) <= set(clients.columns)
    assert clients["client"].tolist() == list(CLIENTS)


def test_every_number_of_the_table_follows_from_the_predictions(finished):
    clients, predictions = table(finished.run), pd.read_parquet(finished.run.path / "predictions.parquet")
    for client in CLIENTS:
        row, own = clients.loc[client], predictions[predictions["client"] == client]
        test = own[own["split"] == "test"]
        assert ((own["split"] == "val").sum(), len(test)) == (row["val_size"], row["test_size"])
        answered = sent = right = right_answered = right_sent = 0
        for query in test.itertuples():
            if query.score >= row["threshold"]:
                answered += 1
                right_answered += query.local_label == query.label
            else:
                sent += 1
                right_sent += query.remote_label == query.label
        right = right_answered + right_sent
        local = (test["local_label"] == test["label"]).mean()
        remote = (test["remote_label"] == test["label"]).mean()
        assert row["local_acc"] == pytest.approx(local)
        assert row["remote_acc"] == pytest.approx(remote)
        assert row["remote_acc_prior"] == pytest.approx((test["remote_prior_label"] == test["label"]).mean())
        assert row["coverage"] == pytest.approx(answered / len(test))
        assert row["overall_acc"] == pytest.approx(right / len(test))
        assert row["gain"] == pytest.approx(right / len(test) - remote)
        expected = right_answered / answered if answered else math.nan
        assert row["local_acc_answered"] == pytest.approx(expected, nan_ok=True)
        assert row["remote_acc_sent"] == pytest.approx(right_sent / sent if sent else math.nan, nan_ok=True)


def test_the_rest_of_the_table_follows_from_the_partition(finished):
    setup, clients = prepare(finished.settings), table(finished.run)
    for shard in setup.partition.shards:
        row, labels = clients.loc[shard.client], setup.dataset.train.labels[shard.train]
        counts = Counter(labels.tolist())
        most = min(counts, key=lambda label: (-counts[label], label))
        test_labels = setup.dataset.test.labels[shard.test]
        assert row["train_size"] == len(shard.train) == 24
        assert (row["val_size"], row["test_size"]) == (len(shard.val), len(shard.test))
        assert row["classes"] == len(counts)
        assert row["gini"] == pytest.approx(gini(label_histogram(labels, 5)))
        assert row["majority_acc"] == pytest.approx((test_labels == most).mean())


def test_predictions_are_of_each_client_s_own_shards(finished):
    setup, predictions = prepare(finished.settings), pd.read_parquet(finished.run.path / "predictions.parquet")
    for shard in setup.partition.shards:
        own = predictions[predictions["client"] == shard.client]
        for split, images, labels in (
            ("val", shard.val, setup.dataset.train.labels),
            ("test", shard.test, setup.dataset.test.labels),
        ):
            rows = own[own["split"] == split]
            assert rows["image"].tolist() == images.tolist()
            assert rows["label"].tolist() == labels[images].tolist()
    assert predictions["confidence"].between(0, 1).all()
    assert np.isfinite(predictions["score"]).all()


def test_thresholds_are_calibrated_on_validation_rows_alone(finished):
    clients, predictions = table(finished.run), pd.read_parquet(finished.run.path / "predictions.parquet")
    validation = predictions[predictions["split"] == "val"]
    for client, row in clients.iterrows():
        own = validation[validation["client"] == client]
        # A client with few validation images takes the threshold of all clients' pooled, and is marked.
        assert row["threshold_pooled"] == (len(own) < FEWEST_TO_CALIBRATE)
        rows = validation if row["threshold_pooled"] else own
        local, remote = rows["local_label"] == rows["label"], rows["remote_label"] == rows["label"]
        threshold = calibrate(rows["score"], local, remote, Target("best"))
        assert row["threshold"] == pytest.approx(threshold, rel=1e-12)
    # Both kinds are among them.
    assert set(clients["threshold_pooled"]) == {True, False}


def test_with_the_server_s_prior_overall_takes_the_corrected_answers(finished):
    records, predictions = finished.run.evaluations(FINETUNE)
    plain, prior = (client_rows(records, predictions, Target("best"), server=server) for server in ("plain", "prior"))
    for name in ("remote_acc", "overall_acc", "coverage", "threshold", "gain"):
        assert plain[name].equals(plain[f"{name}_plain"])
        assert prior[name].equals(prior[f"{name}_prior"])
        assert plain[f"{name}_prior"].equals(prior[f"{name}_prior"])


def test_thresholds_by_class_are_calibrated_on_validation_rows_alone(finished):
    records, predictions = finished.run.evaluations(FINETUNE)
    few = client_rows(records, predictions, Target("best"), by_class=True)
    pooled = client_rows(records, predictions, Target("best"))
    assert few[few["threshold_pooled"]].equals(pooled[pooled["threshold_pooled"]])
    # Every validation row ten times: enough of them for thresholds of one's own.
    predictions = pd.concat([predictions, *[predictions[predictions["split"] == "val"]] * 9], ignore_index=True)
    rows = client_rows(records, predictions, Target("best"), by_class=True)
    assert not rows["threshold_pooled"].any()
    for client, row in rows.set_index("client").iterrows():
        val, test = (
            predictions[(predictions["client"] == client) & (predictions["split"] == split)]
            for split in ("val", "test")
        )
        answered = np.zeros(len(test), bool)
        for label, own in test.reset_index(drop=True).groupby("local_label"):
            seen = val[val["local_label"] == label]
            threshold = row["threshold"]
            if len(seen) >= FEWEST_OF_A_CLASS:
                right = (seen[name] == seen["label"] for name in ("local_label", "remote_label"))
                threshold = calibrate(seen["score"], *right, Target("best"))
            answered[own.index] = own["score"].astype(float) >= threshold
        assert row["coverage"] == pytest.approx(answered.mean())


def test_the_last_predictions_hold_images_of_classes_outside_the_shard(federate, tiny_settings, tmp_path):
    few_classes = {"partition.kind": "shards", "partition.classes": 3, "rounds.distill": 0, "rounds.finetune": 0}
    run = federate(tiny_settings(few_classes), tmp_path / "run").run
    partition = Partition.load(run.path / "partition.npz")
    predictions = pd.read_parquet(run.path / "predictions.parquet")
    for shard, counts in zip(partition.shards, partition.label_counts, strict=True):
        own = predictions[predictions["client"] == shard.client]
        for split, most in (("val", len(shard.val)), ("test", len(shard.test))):
            outside = own[own["split"] == f"{split}_outside"]
            assert (counts[outside["label"]] == 0).all()
            assert 0 < len(outside) <= most
            assert not set(outside["image"]) & set(own.loc[own["split"] == split, "image"])


def test_pooled_thresholds_are_calibrated_on_all_validation_rows(finished):
    records, predictions = finished.run.evaluations(FINETUNE)
    rows = client_rows(records, predictions, Target("best"), pool=True)
    val = predictions[predictions["split"] == "val"]
    local, remote = val["local_label"] == val["label"], val["remote_label"] == val["label"]
    assert set(rows["threshold"]) == {calibrate(val["score"], local, remote, Target("best"))}
    assert rows["threshold_pooled"].all()


def test_predictions_of_before_stacking_still_make_a_table(finished):
    records, predictions = finished.run.evaluations(FINETUNE)
    older = client_rows(records, predictions.drop(columns="remote_stacked_label"), Target("best"))
    now = client_rows(records, predictions, Target("best"))
    assert older.equals(now[[name for name in now if not name.endswith("_stacked")]])


def test_images_from_outside_are_spread_over_the_classes():
    labels = np.arange(1000) % 10  # a data set that goes round its classes
    chosen = spread(np.flatnonzero(labels >= 4), labels, 60)
    assert Counter(labels[chosen].tolist()) == dict.fromkeys(range(4, 10), 10)


def test_stacked_answers_are_bayes_rule_where_there_are_few_images_to_weigh_them(finished):
    clients = pd.read_csv(finished.run.path / "clients.csv")
    predictions = pd.read_parquet(finished.run.path / "predictions.parquet")
    few = clients.loc[clients["threshold_pooled"], "client"]
    own = predictions[predictions["client"].isin(few)]
    assert own["remote_stacked_label"].equals(own["remote_prior_label"])
    assert {"overall_acc_stacked", "gain_stacked", "overall_at_46_stacked"} <= set(clients.columns)
    others = predictions[~predictions["client"].isin(few)]
    assert not others["remote_stacked_label"].equals(others["remote_prior_label"])


def test_rounds_are_told_client_by_client(finished):
    rows = finished.run.rows()
    trained = [(row["round"], row["stage"], row["client"]) for row in rows if row["client"] is not None]
    stages = ["warm_start", "private_start", "distill", "private_pass", "finetune"]
    assert trained == [(number, stage, client) for number, stage in enumerate(stages) for client in CLIENTS]
    balanced = {row["round"]: row["balanced_acc"] for row in rows if row["client"] is None}
    assert list(balanced) == [PRIVATE_START, DISTILL, PRIVATE_PASS, FINETUNE]
    assert all(0 <= accuracy <= 1 for accuracy in balanced.values())
    # The table says again what the last round measured, and how the private start did before any training.
    clients = table(finished.run)
    for row in rows:
        if row["client"] is not None and row["round"] == FINETUNE:
            assert clients.loc[row["client"], "overall_acc"] == pytest.approx(row["overall_acc"])
        if row["client"] is not None and row["round"] == PRIVATE_START:
            assert clients.loc[row["client"], "local_acc_start"] == pytest.approx(row["local_acc"])


def test_the_balanced_accuracy_is_of_the_shared_part_through_the_warm_start_s_head1(finished):
    setup = prepare(finished.settings)
    start = WarmStart.from_tensors(tensor_file.read(finished.run.path / "warm_start.safetensors"))
    model = build_model(finished.settings, setup.base, len(setup.dataset.classes), start.early_seed, setup.compute)
    model = model.twin_with(start.tensors | finished.run.shared())
    model.eval()

    def through_the_code(images):
        return model.remote_logits(model.code(model.head1(images).mu))

    (told,) = (row["balanced_acc"] for row in finished.run.rows() if row["client"] is None and row["round"] == FINETUNE)
    assert told == pytest.approx(accuracy_on_test(through_the_code, setup.dataset, setup.compute), abs=0.01)


# What each stage does


def test_the_private_start_is_the_warm_start_with_the_client_s_label_shares(finished, stopped):
    start = stopped(PRIVATE_START)
    warm = WarmStart.from_tensors(tensor_file.read(start.path / "warm_start.safetensors")).tensors
    setup = prepare(finished.settings)
    for shard in setup.partition.shards:
        own = private(start, shard.client)
        assert same(own, warm, "head1.")
        assert same(own, warm, "early.means")
        assert same(own, warm, "early.scale")
        counts = label_histogram(setup.dataset.train.labels[shard.train], 5)
        log_shares = torch.from_numpy(np.log(smoothed_shares(counts)))[:, None]
        expected = warm["early.log_weights"].double() + log_shares
        torch.testing.assert_close(own["early.log_weights"].double(), expected, rtol=0, atol=1e-5)
    ranges = {tuple(private(start, client)["code.low"].tolist()) for client in CLIENTS}
    assert len(ranges) == len(CLIENTS)


def test_each_stage_changes_its_parts_and_no_other(finished, stopped):
    runs = [stopped(number) for number in range(1, 5)]
    for before, after, shared_changes, private_changes in (
        (runs[0], runs[1], {"head2"}, {"head1", "code", "early"}),
        (runs[1], runs[2], set(), {"head1", "code", "early"}),
        (runs[2], runs[3], {"head2", "tail"}, set()),
    ):
        pairs = [(before.shared(), after.shared(), shared_changes)]
        pairs += [(private(before, client), private(after, client), private_changes) for client in CLIENTS]
        for one, other, changes in pairs:
            assert {part for part in parts(one) if not same(one, other, f"{part}.")} == changes


def test_clients_grow_apart_in_private_and_share_the_rest(finished):
    heads = [private(finished.run, client) for client in CLIENTS]
    assert not same(heads[0], heads[1], "head1.")
    assert not same(heads[0], heads[1], "early.")


@pytest.mark.parametrize("head1", ["frozen", "shared"])
def test_head1_frozen_or_shared(federate, tiny_settings, tmp_path, head1):
    settings = tiny_settings({"head1": head1, "rounds.evaluate_every": 0})
    federated = federate(settings, tmp_path / "run")
    own = [private(federated.run, client) for client in CLIENTS]
    warm = tensor_file.read(federated.run.path / "warm_start.safetensors")
    sent = {
        said.direction: said.tensors.keys() for said in said_in(federated) if said.about == (Stage.DISTILL, "train")
    }
    if head1 == "frozen":
        assert all(same(tensors, warm, "head1.") for tensors in own)
        assert parts(sent["down"]) == parts(sent["up"]) == parts(federated.run.shared()) - {"tail"} == {"head2"}
    else:
        assert parts(sent["down"]) == parts(sent["up"]) == {"head1", "head2"}
        assert all(same(tensors, federated.run.shared(), "head1.") for tensors in own)
        assert not same(own[0], warm, "head1.")
    # The early classifier is each client's own either way.
    assert not same(own[0], own[1], "early.")


@pytest.mark.parametrize("kind", ["kmeans", "knn"])
@pytest.mark.parametrize("head1", ["local", "frozen"])
def test_a_classifier_that_is_fitted_knows_its_client_s_codes(federate, tiny_settings, tmp_path, kind, head1):
    settings = tiny_settings({"early.kind": kind, "head1": head1, "rounds.evaluate_every": 0})
    federated = federate(settings, tmp_path / "run")
    early = [
        {name: t for name, t in private(federated.run, client).items() if name.startswith("early.")}
        for client in CLIENTS
    ]
    assert all(len(tensor) > 0 for own in early for tensor in own.values())
    if kind == "knn":
        labels = prepare(settings).dataset.train.labels
        for shard, own in zip(prepare(settings).partition.shards, early, strict=True):
            assert own["early.labels"].tolist() == labels[shard.train].tolist()
    clients = table(federated.run)
    assert (clients["local_acc"] > clients["majority_acc"] - 0.1).all()
    for said in said_in(federated):
        assert not any(tensor.numel() for name, tensor in said.tensors.items() if name.startswith("early."))


def test_without_an_early_classifier_every_query_is_sent(federate, tiny_settings, tmp_path):
    federated = federate(tiny_settings({"early.kind": "none", "rounds.evaluate_every": 0}), tmp_path / "run")
    assert not any(name.startswith("early.") for name in private(federated.run, 0))
    predictions = pd.read_parquet(federated.run.path / "predictions.parquet")
    assert (predictions[["local_label", "confidence", "score"]] == [-1, 0, 0]).all(axis=None)
    clients = table(federated.run)
    assert (clients["coverage"] == 0).all()
    assert (clients["overall_acc"] == clients["remote_acc"]).all()
    # There is nothing local to be right or wrong, at no coverage but 0.
    undefined = [name for name in clients if name.startswith(("local_", "overall_at_"))]
    assert {"local_acc", "local_acc_start", "local_acc_answered", "local_answered_at_50"} < set(undefined)
    assert clients[undefined].isna().all(axis=None)
    assert not any("local_acc" in row for row in federated.run.rows())
    records, predictions = federated.run.evaluations(FINETUNE)
    assert (client_rows(records, predictions, Target("never"), by_class=True)["coverage"] == 0).all()


def test_batch_norm_s_statistics_frozen(finished):
    warm = tensor_file.read(finished.run.path / "warm_start.safetensors")
    assert same(statistics(finished.run.shared()), warm)
    for said in said_in(finished):
        if said.direction == "up" and said.about[0] is not Stage.WARM_START:
            assert not statistics(said.tensors)


def test_batch_norm_s_statistics_averaged(federate, tiny_settings, tmp_path):
    settings = tiny_settings({"base.batch_norm": "aggregate", "rounds.evaluate_every": 0})
    federated = federate(settings, tmp_path / "run")
    replies = [
        said.tensors
        for said in said_in(federated)
        if said.direction == "up" and said.about == (Stage.FINETUNE, "train")
    ]
    shared = federated.run.shared()
    assert len(replies) == len(CLIENTS)
    assert statistics(replies[0]).keys() == statistics(shared).keys()
    for name, averaged in statistics(shared).items():
        # All clients have as many images.
        mean = sum(reply[name].double() for reply in replies) / len(replies)
        torch.testing.assert_close(averaged.double(), mean, rtol=1e-5, atol=1e-6)
    warm = tensor_file.read(federated.run.path / "warm_start.safetensors")
    assert not same(statistics(shared), warm)
    for name in shared:
        if name.endswith("num_batches_tracked"):
            assert torch.equal(shared[name], warm[name])
            assert all(name not in reply for reply in replies)


def test_batch_norm_s_statistics_each_client_s_own(federate, tiny_settings, tmp_path):
    after = {}

    def read(number, run):
        if number >= PRIVATE_START:
            after[number] = [statistics(private(run, client)) for client in CLIENTS]

    settings = tiny_settings({"base.batch_norm": "local", "rounds.evaluate_every": 0})
    federated = federate(settings, tmp_path / "run", read)
    warm = statistics(tensor_file.read(federated.run.path / "warm_start.safetensors"))
    # They begin where the warm start ended.
    for own in after[PRIVATE_START]:
        assert all(torch.equal(tensor, warm[name]) for name, tensor in own.items())
    for number, part in ((DISTILL, "head2."), (FINETUNE, "tail.")):
        assert not same(after[number][0], warm, part)
        assert not same(after[number][0], after[number][1], part)
    assert same(statistics(federated.run.shared()), warm)
    for said in said_in(federated):
        if said.direction == "up" and said.about[0] is not Stage.WARM_START:
            assert not statistics(said.tensors)


def test_optimisers_are_kept_privately_where_that_is_wanted(federate, tiny_settings, tmp_path):
    def steps_taken(run):
        own = private(run, 0)
        return {name: int(own[name]) for name in own if name.startswith("adam.") and name.endswith(".step")}

    rounds = {"rounds.distill": 2, "rounds.finetune": 2, "rounds.evaluate_every": 0}
    kept = tiny_settings({"train.keep_optimisers": True, "train.batch_size": 20, **rounds})
    federated = federate(kept, tmp_path / "kept")
    # Two batches of 20 images a round: two rounds for Head2, and the private pass besides for what is private.
    taken = steps_taken(federated.run)
    assert {steps for name, steps in taken.items() if name.startswith("adam.head2.")} == {4}
    assert {steps for name, steps in taken.items() if not name.startswith("adam.head2.")} == {6}
    assert any(name.startswith("sgd.tail.") for name in private(federated.run, 0))
    assert not any(name.startswith(("adam.", "sgd.")) for said in said_in(federated) for name in said.tensors)
    afresh = federate(tiny_settings({"train.batch_size": 20, **rounds}), tmp_path / "afresh")
    assert not steps_taken(afresh.run)
    assert not same(federated.run.shared(), afresh.run.shared(), "tail.")


def test_who_does_not_train_in_a_round_keeps_its_private_state(federate, tiny_settings, tmp_path):
    after = {}

    def read(number, run):
        if number >= PRIVATE_START:
            files = [run.path / "private" / f"{client}.safetensors" for client in CLIENTS]
            after[number] = [file.read_bytes() for file in files]

    settings = tiny_settings({"strategy.fraction": 0.5, "rounds.distill": 2, "rounds.evaluate_every": 0, "seed": 1})
    federated = federate(settings, tmp_path / "run", read)
    rows = federated.run.rows()
    for number in (DISTILL, DISTILL + 1):
        chosen = choose_clients(settings, dict.fromkeys(CLIENTS, 24), number)
        assert [row["client"] for row in rows if row["round"] == number] == chosen
        changed = [client for client in CLIENTS if after[number][client] != after[number - 1][client]]
        assert changed == chosen
        assert 0 < len(chosen) < len(CLIENTS)
    # The private start and the private pass are everyone's, and so is the evaluation.
    assert all(one != other for one, other in zip(after[DISTILL + 1], after[DISTILL + 2], strict=True))
    assert table(federated.run).index.tolist() == list(CLIENTS)


# What is said


@dataclass(frozen=True)
class Said:
    """A message, and in which stage and for what it was sent."""

    about: tuple[Stage, str]
    direction: str
    """`down` to a client, or `up` from one."""
    client: int
    content: object

    @property
    def tensors(self):
        return {
            name: tensor
            for record in self.content.array_records.values()
            for name, tensor in record.to_torch_state_dict().items()
        }

    @property
    def bytes(self):
        return sum(tensor.nbytes for tensor in self.tensors.values())


def said_in(federated):
    """Every message of the run but the first greetings."""
    said, about = [], None
    for message in federated.messages:
        is_reply = bool(message.metadata.reply_to_message_id)
        if message.metadata.message_type == "query":
            continue
        if not is_reply:
            about = Stage(message.content.config_records["order"]["stage"]), message.metadata.message_type
        node = message.metadata.src_node_id if is_reply else message.metadata.dst_node_id
        said.append(Said(about, "up" if is_reply else "down", node - 2, message.content))
    return said


def test_nothing_private_is_in_any_message_after_the_private_start(finished):
    said = said_in(finished)
    start = next(n for n, one in enumerate(said) if one.about == (Stage.PRIVATE_START, "train"))
    # The warm start, which all train together, does send them: the test can see.
    before = {name for one in said[:start] for name in one.tensors}
    assert {"head1", "code", "early"} <= parts(before)
    assert any("counts" in one.content.metric_records.get("label_counts", {}) for one in said[:start])
    after = [one for one in said[start:] if (one.about, one.direction) != ((Stage.PRIVATE_START, "train"), "down")]
    assert {one.about[0] for one in after} == {*Stage} - {Stage.WARM_START, Stage.NEWCOMERS, Stage.WHOLE}
    for one in after:
        assert not {name for name in one.tensors if name.startswith(("head1.", "code.", "early."))}
        # Nor label counts, in whatever record: a number each, and none but these.
        for record in one.content.metric_records.values():
            assert all(isinstance(value, int | float) for value in record.values())
            allowed = {
                "client",
                "samples",
                "weight",
                "loss_mimic",
                "loss_regularisation",
                "loss_early",
                "loss_finetune",
            }
            assert record.keys() <= allowed
        if one.direction == "up":
            assert not one.content.config_records


def test_the_order_of_the_private_start_is_the_same_for_all(finished):
    orders = [
        one.tensors
        for one in said_in(finished)
        if (one.about, one.direction) == ((Stage.PRIVATE_START, "train"), "down")
    ]
    assert len(orders) == len(CLIENTS)
    assert all(same(orders[0], other) for other in orders)


def test_an_evaluation_sends_nothing_back(finished):
    assert all(not one.tensors for one in said_in(finished) if (one.about[1], one.direction) == ("evaluate", "up"))


def test_bytes_up_and_down_are_counted(finished):
    counted = {
        (row["stage"], row["client"]): (row["bytes_down"], row["bytes_up"])
        for row in finished.run.rows()
        if row["client"] is not None
    }
    said = {}
    for one in said_in(finished):
        ways = said.setdefault((str(one.about[0]), one.client), {"down": 0, "up": 0})
        ways[one.direction] += one.bytes
    assert counted == {key: (ways["down"], ways["up"]) for key, ways in said.items()}
    assert len(counted) == 15


# The same bytes


def test_however_many_clients_train_at_once_the_result_is_the_same(
    finished, federate, tiny_settings, tmp_path, results
):
    two = federate(tiny_settings({"engine.clients_at_once": 2}), tmp_path / "run")
    assert results(two.run) == results(finished.run)


def test_a_run_stopped_in_and_after_every_round_ends_as_one_left_alone(
    finished, go_on, stop_in_and_after_every_round, tiny_settings, tmp_path, results
):
    settings = tiny_settings()
    setup = prepare(settings)
    run = RunDirectory.create(tmp_path / "run", settings, setup.partition, setup.identity)
    stop_in_and_after_every_round(run, settings)
    assert go_on(run, settings).ended_by is None
    assert results(run) == results(finished.run)
    # Times and dates aside.
    rows, expected = ([row | {"seconds": 0} for row in r.rows()] for r in (run, finished.run))
    assert rows == expected


def test_another_seed_is_another_run(finished, federate, tiny_settings, tmp_path):
    nothing = {"seed": 1, "rounds.warm_start": 0, "rounds.distill": 0, "rounds.finetune": 0}
    other = federate(tiny_settings(nothing), tmp_path / "run")
    assert not same(private(other.run, 0), private(finished.run, 0), "early.")
    fingerprints = [Partition.load(run.path / "partition.npz").fingerprint for run in (other.run, finished.run)]
    assert fingerprints[0] != fingerprints[1]


@pytest.mark.slow(30)
@pytest.mark.parametrize("actors", [1, 2])
def test_ray_gives_the_bytes_of_the_inline_engine(finished, tiny_settings, tmp_path, results, actors):
    from rich.console import Console

    from fed_rebel.launch.progress import ProgressDisplay
    from fed_rebel.launch.simulation import begin, run

    settings = tiny_settings({"engine.kind": "ray", "engine.clients_at_once": actors})
    with ProgressDisplay(Console(stderr=True)) as display:
        directory = begin(settings, tmp_path / "run", display)
        run(settings, directory, display)
    digests = [
        hashlib.sha256((path / "shared.safetensors").read_bytes()).hexdigest()
        for path in (directory.path, finished.run.path)
    ]
    assert digests[0] == digests[1]
    assert results(directory) == results(finished.run)


# Trouble


def spoil(run, client, how):
    """Damage a client's private file, or its numbers; gives back what puts it right again."""
    path = run.path / "private" / f"{client}.safetensors"
    whole = path.read_bytes()
    if how == "truncated":
        files.replace(path, whole[:-100])
    else:
        tensors = tensor_file.read(path)
        tensors["head1.layers.0.weight"][0, 0, 0, 0] = math.nan
        tensor_file.write(path, tensors)
    return lambda: files.replace(path, whole)


def stop_after(number):
    def after_round(ended, run):
        if ended == number:
            raise KeyboardInterrupt

    return after_round


def test_a_client_whose_private_file_is_damaged_is_left_out_and_the_run_goes_on(stopped, go_on, tiny_settings):
    run = stopped(PRIVATE_START)
    settings = tiny_settings({"rounds.evaluate_every": 0})
    restore = spoil(run, 1, "truncated")

    def restore_after_distillation(number, _):
        if number == DISTILL:
            restore()

    federated = go_on(run, settings, restore_after_distillation)
    assert federated.ended_by is None
    ((number, fault),) = federated.faults
    assert (number, fault.client) == (DISTILL, 1)
    assert "1.safetensors" in fault.reason
    assert len(fault.reason.splitlines()) == 1
    rows = {row["client"]: row for row in run.rows() if row["round"] == DISTILL}
    assert rows[1]["fault"] == fault.reason
    assert "samples" not in rows[1]
    assert "fault" not in rows[0]
    assert "fault" not in rows[2]
    assert table(run).index.tolist() == list(CLIENTS)


@pytest.mark.parametrize("number", [DISTILL, PRIVATE_PASS, FINETUNE])
def test_a_client_whose_head1_is_not_finite_is_left_out(stopped, go_on, tiny_settings, number):
    run = stopped(number - 1)
    settings = tiny_settings({"rounds.evaluate_every": 0, "rounds.finetune": 2})
    spoil(run, 1, "nan")
    federated = go_on(run, settings, stop_after(number))
    assert isinstance(federated.ended_by, KeyboardInterrupt)
    ((faulty, fault),) = federated.faults
    assert (faulty, fault.client) == (number, 1)
    assert "not finite" in fault.reason
    rows = {row["client"]: row for row in run.rows() if row["round"] == number}
    assert rows[1]["fault"] == fault.reason
    assert all(tensor.isfinite().all() for tensor in run.shared().values())


@pytest.mark.parametrize("how", ["truncated", "nan"])
def test_a_run_that_cannot_measure_any_client_fails_and_loses_nothing(finished, stopped, go_on, results, how):
    run = stopped(PRIVATE_PASS)
    restore = [spoil(run, client, how) for client in CLIENTS]
    federated = go_on(run, finished.settings)
    assert isinstance(federated.ended_by, RunFailed)
    assert "client 0" in str(federated.ended_by)
    assert len(str(federated.ended_by).splitlines()) == 1
    assert run.rounds_done == FINETUNE
    assert not run.finished
    for put_right in restore:
        put_right()
    assert go_on(run, finished.settings).ended_by is None
    assert results(run) == results(finished.run)


@pytest.mark.parametrize("stage", [Stage.DISTILL, Stage.PRIVATE_PASS])
def test_a_client_whose_training_diverges_keeps_its_private_state(stopped, tiny_settings, stage):
    run = stopped(PRIVATE_START)
    warm = WarmStart.from_tensors(tensor_file.read(run.path / "warm_start.safetensors"))
    head2 = {name: tensor for name, tensor in run.shared().items() if name.startswith("head2.")}
    head2["head2.layers.0.weight"][0] = math.nan
    run.begin_round(DISTILL)
    outbox = run.new_outbox(DISTILL).path
    order = Order(tiny_settings(), str(run.path), str(outbox), DISTILL, stage, warm.early_seed, False, head2)
    with pytest.raises(ValueError, match="not finite"):
        train(order, open_shard(order, Node(1)))
    assert not list(outbox.iterdir())
    # With what it should have been sent, it trains.
    order = replace(order, tensors={n: t.nan_to_num() for n, t in head2.items()})
    assert train(order, open_shard(order, Node(1))).client == 1
    assert [file.name for file in outbox.iterdir()] == ["1.safetensors"]


def test_a_client_that_is_not_in_the_partition_is_told(stopped, tiny_settings, tmp_path):
    run = stopped(PRIVATE_START)
    order = Order(tiny_settings(), str(run.path), str(tmp_path), DISTILL, Stage.DISTILL, 0, False, {})
    with pytest.raises(ValueError, match=r"^partition-id = 3: allowed: 0 to 2 \(partition\.clients\)$"):
        open_shard(order, Node(3))


def test_rows_are_json_that_anything_can_read(finished):
    for line in (finished.run.path / "rounds.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_a_warm_start_s_tail_keeps_its_statistics_until_a_client_has_some_of_its_own(federate, tiny_settings, tmp_path):
    """A pooled warm start moves the Tail's statistics, which distillation neither sends nor trains."""
    after = {}

    def read(number, run):
        after[number] = [statistics(private(run, client)) for client in CLIENTS]

    pooled = {"warm_start.weights": "pooled", "warm_start.epochs": 1, "warm_start.finetune_epochs": 1}
    changes = {"rounds.warm_start": 0, "base.batch_norm": "local", "rounds.evaluate_every": 0}
    federate(tiny_settings(pooled | changes), tmp_path / "run", read)
    private_start, distilled, passed, finetuned = sorted(after)
    assert not any(after[private_start])
    for number in (distilled, passed):
        assert all(parts(own) == {"head2"} for own in after[number])
    assert all(parts(own) == {"head2", "tail"} for own in after[finetuned])
