"""Clients on disks of their own, as in a deployment: the same bytes, and nothing leaves that settings keep there."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import RecordingGrid
from faulty_clients import FaultyClients
from flwr.app import ConfigRecord, Message, RecordDict
from safetensors.torch import load_file

from clients import shard
from clients.app import app
from fed_rebel import tensor_file
from fed_rebel.report import write_report
from fed_rebel.runs import RunDirectory
from fed_rebel.training.setup import prepare
from strategy import rounds
from strategy.rounds import RunFailed

PRIVATE_START, DISTILL, PRIVATE_PASS = 1, 2, 3
"""Rounds of the tiny settings."""


@pytest.fixture
def deploy(go_on, tiny_settings, tmp_path):
    """A run whose clients have folders of their own: `deploy(changes)` begins it, `deploy(run=...)` goes on with it."""

    def deploy(changes=None, run=None, node_configs=None, **how):
        settings = tiny_settings({"report.share": "predictions"} | (changes or {}))
        if run is None:
            setup = prepare(settings)
            run = RunDirectory.create(tmp_path / "run", settings, setup.partition, setup.identity)
        configs = node_configs or [{"partition-id": i, "state": str(tmp_path / f"node-{i}")} for i in range(3)]
        return go_on(run, settings, node_configs=configs, **how)

    return deploy


def on_disk(tmp_path, run, client):
    return tmp_path / f"node-{client}" / run.id / str(client)


def state(tmp_path, run, client):
    """Where the state lies that counts, as the server knows."""
    return on_disk(tmp_path, run, client) / f"{(run.path / 'private' / f'{client}.sha256').read_text()}.safetensors"


def test_the_results_are_those_of_a_simulation_to_the_bit(deploy, finished, tmp_path):
    deployed = deploy()
    assert (deployed.ended_by, deployed.faults) == (None, [])
    run = deployed.run
    for name in ("shared.safetensors", "warm_start.safetensors", "clients.csv", "predictions.parquet"):
        assert (run.path / name).read_bytes() == (finished.run.path / name).read_bytes()
    for client in range(3):
        own = state(tmp_path, run, client)
        assert own.read_bytes() == (finished.run.path / "private" / f"{client}.safetensors").read_bytes()
        assert hashlib.sha256(own.read_bytes()).hexdigest() == own.stem
    assert sorted(path.suffix for path in (run.path / "private").iterdir()) == [".sha256"] * 3


@pytest.mark.parametrize("share", ["none", "rows"])
def test_what_is_not_shared_stays_on_the_client_s_disk(deploy, finished, tmp_path, share):
    run = deploy({"report.share": share}).run
    assert not (run.path / "predictions.parquet").exists()
    assert not list(run.path.rglob("*.parquet"))
    with pytest.raises(ValueError, match=rf"its clients kept their predictions.*report\.share = '{share}'"):
        write_report(run.path)
    table = pd.read_csv(run.path / "clients.csv", converters={"threshold": float})
    whole = pd.read_csv(finished.run.path / "clients.csv", converters={"threshold": float})
    if share == "none":
        assert list(table.columns) == ["client", "partition"]
        assert not [row for row in run.rows() if "overall_acc" in row]
    else:
        alone = whole[~whole["threshold_pooled"]]  # others' thresholds are from everybody's predictions
        pd.testing.assert_frame_equal(table.loc[alone.index], alone)
    for client in range(3):
        kept = on_disk(tmp_path, run, client)
        own = pd.read_parquet(kept / "predictions.parquet")
        expected = pd.read_parquet(finished.run.path / "predictions.parquet")
        pd.testing.assert_frame_equal(own, expected[expected["client"] == client].reset_index(drop=True))
        assert pd.read_csv(kept / "row.csv")["remote_acc"].item() == whole["remote_acc"][client]


VARIANTS = {
    "control variates and optimisers": {"strategy.name": "scaffold", "train.keep_optimisers": True},
    "statistics of its own": {"strategy.name": "feddyn", "base.batch_norm": "local"},
    "newcomers": {"partition.newcomers": 1},
    "late replies": {"strategy.late": 0.4, "strategy.late_replies": "next", "rounds.distill": 2},
    "the last layer": {"method": "fedper", "rounds.warm_start": 0},
    "nothing early": {"early.kind": "none"},
    "shared Head1": {"head1": "shared"},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_whatever_a_client_keeps_the_results_are_those_of_a_simulation(
    deploy, federate, tiny_settings, tmp_path, changes
):
    changes = changes | {"rounds.evaluate_every": 0}
    run, simulated = deploy(changes).run, federate(tiny_settings(changes), tmp_path / "simulation").run
    for path in simulated.path.glob("*.csv"):
        assert (run.path / path.name).read_bytes() == path.read_bytes()
    assert (run.path / "shared.safetensors").read_bytes() == (simulated.path / "shared.safetensors").read_bytes()
    for path in (simulated.path / "private").iterdir():
        assert state(tmp_path, run, int(path.stem)).read_bytes() == path.read_bytes()


def test_after_the_warm_start_no_reply_holds_what_is_private(deploy, tmp_path):
    deployed = deploy({"report.share": "none", "rounds.warm_start": 0})
    states = [load_file(path) for path in tmp_path.glob("node-*/*/*/*.safetensors")]
    private = [t for kept in states for name, t in kept.items() if name.startswith(("head1.", "early.", "code."))]
    contents = [message.content for message in deployed.messages if message.metadata.reply_to_message_id]
    replies = [content for content in contents if "reply" in content.metric_records]
    assert len(replies) == 3 * 8  # four rounds of training, four evaluations
    for content in replies:
        assert set(content.config_records.get("files", {})) <= {".sha256"}
        assert not content.metric_records["label_counts"]
        sent = {n: t for record in content.array_records.values() for n, t in record.to_torch_state_dict().items()}
        assert {name.split(".")[0] for name in sent} <= {"head2", "tail"}
        assert not any(mine.shape == t.shape and mine.equal(t) for mine in private for t in sent.values())


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_run_that_is_stopped_in_and_after_every_round_ends_with_the_same_bytes(deploy, finished, tmp_path, kind):
    """What a client wrote in a round that was stopped never counts, and what it goes on from is still there."""

    def stop(*_):
        raise KeyboardInterrupt

    def at_reply(number):
        replies = iter(range(1, 100))
        return lambda: stop() if next(replies) == number else None

    # In a round three clients train, and then, where it is evaluated, three are evaluated.
    run, within = None, {"train": 2, "evaluate": 5}[kind]
    while run is None or not run.finished:
        for how in ({"on_reply": at_reply(within)}, {"after_round": stop}):
            stopped = deploy(run=run, **how)
            run = stopped.run
            assert not stopped.faults
            assert stopped.ended_by is None or isinstance(stopped.ended_by, KeyboardInterrupt)
    for name in ("shared.safetensors", "clients.csv"):
        assert (run.path / name).read_bytes() == (finished.run.path / name).read_bytes()
    for client in range(3):
        simulated = finished.run.path / "private" / f"{client}.safetensors"
        assert state(tmp_path, run, client).read_bytes() == simulated.read_bytes()


@pytest.mark.parametrize("how", ["gone", "altered"])
def test_a_node_that_lost_its_state_is_left_out_and_told(deploy, tmp_path, how):
    def after_round(number, run):
        if number == PRIVATE_START:
            lost = state(tmp_path, run, 1)
            if how == "gone":
                shutil.rmtree(lost.parent)
            else:
                lost.write_bytes(lost.read_bytes()[:-1] + b"x")

    deployed = deploy(after_round=after_round)
    assert deployed.ended_by is None
    assert {fault.client for _, fault in deployed.faults} == {1}
    told = {"gone": "the private state that the server knows of is not there", "altered": "altered since"}[how]
    assert all(told in fault.reason for _, fault in deployed.faults)
    assert pd.read_csv(deployed.run.path / "clients.csv")["client"].tolist() == [0, 2]


def test_the_server_reads_no_file_that_is_not_a_client_s(deploy, tmp_path):
    bad = {
        1: {".json": b'{"client": 0}'},
        2: {".json": b"[1", ".parquet": b"PAR1"},
        3: {"../../../settings.toml": b"seed = 1"},
        4: {".parquet": pd.DataFrame({"client": [1]}).to_parquet()},
    }

    def sends(message, context):
        reply = app(message, context)
        if message.metadata.message_type != "evaluate" or context.node_config["partition-id"] != 1:
            return reply
        number = message.content.config_records["order"]["round"]
        files = {**reply.content["files"], **bad.get(number, {})}
        return Message(RecordDict({**reply.content, "files": ConfigRecord(files)}), reply_to=message)

    deployed = deploy(app=sends)
    assert {(number, fault.client) for number, fault in deployed.faults} == {(number, 1) for number in bad}
    told = {number: fault.reason for number, fault in deployed.faults}
    assert all("not as a client writes it" in told[number] for number in (1, 2, 3))
    assert "its evaluation cannot be read" in told[4]


# What does not fit together


@pytest.mark.parametrize(
    ("changes", "configs", "told"),
    {
        "no number": ({}, [{"state": "s"}] * 3, "partition-id = None in the node config: allowed: the number of"),
        "one number twice": ({}, [{"partition-id": i} for i in (0, 1, 1)], "client 1: 2 nodes answer for it"),
        "too high a number": ({}, [{"partition-id": i} for i in (0, 1, 3)], "client 2: no node answers for it"),
        "own data that are not asked for": (
            {},
            [{"partition-id": i, "state": "s", "data.path": "/d"} for i in range(3)],
            "data.path = /d in the node config: partition.kind = 'by-client' needs none",
        ),
        "no own data": (
            {"partition.kind": "own", "base.weights": "shipped", "data.name": "glyphs100"},
            [{"partition-id": i, "state": "s"} for i in range(3)],
            "partition.kind = 'own' needs data.path and state in the node config",
        ),
        "some with a folder, some without": (
            {},
            [{"partition-id": 0, "state": "s"}, {"partition-id": 1}, {"partition-id": 2}],
            "some nodes have a folder of their own",
        ),
    }.values(),
)
def test_nodes_that_do_not_fit_the_run_are_told(deploy, changes, configs, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended_by = deploy(changes, node_configs=configs).ended_by
    assert isinstance(ended_by, RunFailed)
    assert told in str(ended_by)


def test_a_node_with_other_data_than_the_server_is_told(deploy, tiny, tmp_path, monkeypatch):
    def other(settings):
        return prepare(settings.model_copy(update={"seed": 1}))

    monkeypatch.setattr(shard, "prepare", other)
    ended_by = deploy().ended_by
    assert "this node has another partition than the server" in str(ended_by)


# Clients with their own images


@pytest.fixture
def own_images(tiny, tmp_path):
    """Three files of images of the tiny set, with two to four of its classes each, none dealt by anybody."""
    paths, whole = [], np.load(tiny)
    for client, present in enumerate([(0, 1), (1, 2, 3), (0, 2, 3, 4)]):
        arrays = {"classes": np.array([str(label) for label in present])}
        for split in ("train", "test"):
            mine = np.flatnonzero(np.isin(whole[f"y_{split}"], present))[: 60 + 20 * client]
            arrays[f"x_{split}"] = whole[f"x_{split}"][mine]
            arrays[f"y_{split}"] = np.searchsorted(present, whole[f"y_{split}"][mine])
        np.savez(tmp_path / f"own-{client}.npz", **arrays)
        paths.append(tmp_path / f"own-{client}.npz")
    return paths


def test_clients_bring_their_own_images(deploy, own_images, tiny_settings, tmp_path):
    base = tmp_path / "base.safetensors"
    tensor_file.write(base, prepare(tiny_settings()).base.state_dict())
    configs = [
        {"partition-id": i, "state": str(tmp_path / f"node-{i}"), "data.path": str(path)}
        for i, path in enumerate(own_images)
    ]
    changes = {"partition.kind": "own", "base.weights": str(base), "strategy.sampling": "size"}
    deployed = deploy(changes, node_configs=configs)
    assert (deployed.ended_by, deployed.faults) == (None, [])
    table = pd.read_csv(deployed.run.path / "clients.csv")
    assert table["classes"].tolist() == [2, 3, 4]
    for client, path in enumerate(own_images):
        arrays = np.load(path)
        counts = np.bincount(arrays["y_train"])
        held = np.minimum(50, counts // 4).sum()
        assert table["train_size"][client] == counts.sum() - held
        assert (table["val_size"][client], table["test_size"][client]) == (held, len(arrays["y_test"]))
    predictions = pd.read_parquet(deployed.run.path / "predictions.parquet")
    assert set(predictions[predictions["client"] == 0]["label"]) == {0, 1}
    assert write_report(deployed.run.path).exists()
    assert json.loads((deployed.run.path / "environment.json").read_text())["id"] == deployed.run.id


def test_too_few_images_of_its_own_are_told_before_the_run_begins(deploy, own_images, tiny_settings, tmp_path):
    few = {name: array[:6] for name, array in np.load(own_images[1]).items()}
    labels = np.array([0, 0, 0, 1, 1, 2])
    np.savez(own_images[1], **few | {"y_train": labels, "y_test": labels})
    base = tmp_path / "base.safetensors"
    tensor_file.write(base, prepare(tiny_settings()).base.state_dict())
    configs = [
        {"partition-id": i, "state": str(tmp_path / f"node-{i}"), "data.path": str(path)}
        for i, path in enumerate(own_images)
    ]
    ended_by = deploy({"partition.kind": "own", "base.weights": str(base)}, node_configs=configs).ended_by
    assert "client 1: no node answers for it" in str(ended_by)
    assert "no class has 4 training images" in str(ended_by)


# Nodes that are not there


@pytest.mark.parametrize("own", [False, True], ids=["dealt images", "images of their own"])
def test_a_resume_goes_on_without_a_node_that_is_gone(deploy, own, own_images, tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "WAIT_FOR_NODES_SECONDS", 0.2)
    configs, changes = [{"partition-id": i, "state": str(tmp_path / f"node-{i}")} for i in range(3)], {}
    if own:
        base = tmp_path / "base.safetensors"
        tensor_file.write(base, prepare(tiny_settings()).base.state_dict())
        configs = [config | {"data.path": str(path)} for config, path in zip(configs, own_images, strict=True)]
        changes = {"partition.kind": "own", "base.weights": str(base)}

    def stop(number, _):
        if number == DISTILL:
            raise KeyboardInterrupt

    run = deploy(changes, after_round=stop, node_configs=configs).run
    monkeypatch.setattr(RecordingGrid, "get_node_ids", lambda grid: list(grid._contexts)[:2])
    gone_on = deploy(changes, run=run, node_configs=[configs[0], configs[2]])
    assert gone_on.ended_by is None
    assert {(fault.client, fault.reason.split(";")[0]) for _, fault in gone_on.faults} == {
        (1, "its node is not connected"),
        (1, "not measured: its node is not connected"),
    }
    assert pd.read_csv(run.path / "clients.csv")["client"].tolist() == [0, 2]


def test_a_full_disk_of_a_node_is_its_own_fault(deploy):
    deployed = deploy(app=FaultyClients({(DISTILL, "train", 1): "disk full"}))
    assert deployed.ended_by is None
    assert {(number, fault.client) for number, fault in deployed.faults} == {(DISTILL, 1)}


def test_a_run_is_gone_on_with_where_its_private_states_are(deploy, stopped, tmp_path):
    ended_by = deploy(run=stopped(DISTILL), changes={"report.share": "none"}).ended_by
    assert "its clients' private states are in the run directory" in str(ended_by)
