"""The run directory: a kill at any moment loses the round that was running and nothing else."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fed_rebel import files, runs, tensor_file
from fed_rebel.checksums import Checksum
from fed_rebel.report.grid import find_runs
from fed_rebel.runs import RunDirectory, private_file
from fed_rebel.settings import Settings, SettingsError
from partitions import Partition, Shard

ROWS = [{"round": None, "stage": "distill", "client": client, "loss_early": 0.5} for client in range(3)]


def a_partition():
    one = np.array([1], np.int64)
    return Partition((Shard(0, one, one + 1, one + 2),), one + 1, np.array([[0, 1, 0, 0, 0]]))


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", Settings(), a_partition(), {})


def rows(number):
    return [row | {"round": number} for row in ROWS]


def private(value):
    return {"head1.weight": torch.full((3,), float(value))}


def do_round(run, number, wrote=(0, 1, 2)):
    """A round in which the clients of `wrote` write their private states."""
    run.begin_round(number)
    for client in wrote:
        tensor_file.write(private_file(run.path, number, client), private(10 * number + client))
    run.finish_round(number, {"head2.weight": torch.full((2,), float(number))}, rows(number))


def state_of(run, client):
    return tensor_file.read(run.path / "private" / f"{client}.safetensors")["head1.weight"][0].item()


# Begun, and opened


def test_a_new_run_holds_settings_environment_and_partition(run):
    opened, settings = RunDirectory.open(run.path)
    assert (opened, settings) == (run, Settings())
    environment = json.loads((run.path / "environment.json").read_text())
    assert {"versions", "machine", "commit"} <= environment.keys()
    assert Partition.load(run.path / "partition.npz").fingerprint == a_partition().fingerprint
    assert (run.rounds_done, run.finished, run.rows()) == (0, False, [])


def test_an_empty_directory_may_be_given(tmp_path):
    (tmp_path / "empty").mkdir()
    assert RunDirectory.create(tmp_path / "empty", Settings(), a_partition(), {}).rounds_done == 0


@pytest.mark.parametrize("kind", ["directory", "file", "run"])
def test_what_exists_is_refused_and_left_alone(tmp_path, kind):
    path = tmp_path / "taken"
    if kind == "directory":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    elif kind == "file":
        path.write_text("mine")
    else:
        RunDirectory.create(path, Settings(), a_partition(), {})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SettingsError, match=rf"^--out {path}: exists; .*fed-rebel resume") as caught:
        RunDirectory.create(path, Settings(seed=1), a_partition(), {})
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_kill_while_a_run_is_made_leaves_no_run_and_the_next_try_makes_it(tmp_path):
    program = (
        "import os, signal, pathlib, sys; sys.path.insert(0, 'tests')\n"
        "from test_runs import RunDirectory, Settings, a_partition\n"
        "os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"RunDirectory.create(pathlib.Path({str(tmp_path / 'run')!r}), Settings(), a_partition(), {{}})\n"
    )
    root = Path(__file__).parent.parent
    killed = subprocess.run([sys.executable, "-c", program], cwd=root, env=os.environ | {"PYTHONPATH": str(root)})
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="no finished run here"):
        find_runs([tmp_path])
    RunDirectory.create(tmp_path / "run", Settings(), a_partition(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"^--out .*/file/run: cannot be written"):
        RunDirectory.create(tmp_path / "file" / "run", Settings(), a_partition(), {})


@pytest.mark.parametrize("name", [".", "nothing"])
def test_what_is_no_run_cannot_be_opened(tmp_path, name):
    with pytest.raises(SettingsError, match="no run here"):
        RunDirectory.open(tmp_path / name)


# Rounds


def test_a_finished_round_is_current(run):
    for number in range(3):
        do_round(run, number)
        assert run.rounds_done == number + 1
        assert run.shared()["head2.weight"][0] == number
        assert [state_of(run, client) for client in range(3)] == [10 * number + client for client in range(3)]
    assert run.rows() == rows(0) + rows(1) + rows(2)
    # Of the rounds before nothing is kept.
    assert [path.name for path in (run.path / "rounds").iterdir()] == ["0002"]


def test_private_states_that_a_round_left_unchanged_are_carried_over(run):
    do_round(run, 0)
    do_round(run, 1, wrote=(1,))
    assert [state_of(run, client) for client in range(3)] == [0, 11, 2]
    do_round(run, 2, wrote=())
    assert [state_of(run, client) for client in range(3)] == [0, 11, 2]


def test_a_round_that_was_begun_changes_nothing_until_it_is_finished(run):
    do_round(run, 0)
    run.begin_round(1)
    tensor_file.write(private_file(run.path, 1, 0), private(99))
    tensor_file.write(run.round_path(1) / "shared.safetensors", {"head2.weight": torch.full((2,), 99.0)})
    opened, _ = RunDirectory.open(run.path)
    assert opened.rounds_done == 1
    assert opened.shared()["head2.weight"][0] == 0
    assert state_of(opened, 0) == 0


ROUND_0, ROUND_1 = ("".join(json.dumps(row) + "\n" for row in rows(number)) for number in range(2))


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(ROUND_1, id="whole round"),
        pytest.param(ROUND_1[: ROUND_1.index("\n") + 1], id="one row"),
        pytest.param(ROUND_1[:-10], id="last row torn"),
        pytest.param(ROUND_1[:10], id="first row torn"),
        pytest.param(ROUND_1[: ROUND_1.index("\n")], id="first row without its end"),
        pytest.param("", id="nothing"),
    ],
)
def test_rows_of_an_interrupted_round_are_ignored_and_written_anew(run, left):
    do_round(run, 0)
    run.begin_round(1)
    tensor_file.write(private_file(run.path, 1, 0), private(99))
    with (run.path / "rounds.jsonl").open("a") as file:
        file.write(left)
    opened, _ = RunDirectory.open(run.path)
    assert opened.rows() == rows(0)
    do_round(opened, 1, wrote=(1,))
    assert opened.rows() == rows(0) + rows(1)
    assert (run.path / "rounds.jsonl").read_text() == ROUND_0 + ROUND_1
    # What the interrupted try had written is gone.
    assert [state_of(opened, client) for client in range(3)] == [0, 11, 2]
    do_round(opened, 2)
    assert opened.rows() == rows(0) + rows(1) + rows(2)


def test_a_kill_before_the_old_round_is_removed_does_no_harm(run):
    do_round(run, 0)
    do_round(run, 1)
    (run.round_path(0) / "private").mkdir(parents=True)  # as a kill leaves it
    opened, _ = RunDirectory.open(run.path)
    do_round(opened, 2, wrote=(0,))
    assert (opened.rounds_done, state_of(opened, 0), state_of(opened, 1)) == (3, 20, 11)


# What clients write, and when it counts


def test_what_a_client_writes_counts_once_it_is_accepted(run):
    do_round(run, 0)
    run.begin_round(1)
    outbox = run.new_outbox(1)
    for client in (0, 1):
        tensor_file.write(outbox.path / f"{client}.safetensors", private(10 + client))
    run.accept(1, outbox, [0, 2])
    tensor_file.write(outbox.path / "2.safetensors", private(12))  # late
    run.finish_round(1, {}, rows(1))
    assert [state_of(run, client) for client in range(3)] == [10, 1, 2]
    assert run.clients(1) == [0, 1, 2]
    do_round(run, 2)
    assert [path.name for path in (run.path / "rounds").iterdir()] == ["0002"]


def test_what_is_accepted_is_on_the_disk_and_its_sums_are_those_of_the_files(run, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    run.begin_round(0)
    outbox = run.new_outbox(0)
    for client in range(3):
        files.replace(outbox.path / f"{client}.safetensors", b"state", sync=False)
        files.replace(outbox.path / f"{client}.txt", b"nothing of ours", sync=False)
    assert not synced
    outbox.secure(0)
    sums = run.accept(0, outbox, [0, 2])
    names = {"rounds/0000/private/0.safetensors", "rounds/0000/private/2.safetensors"}
    assert sums == {name: Checksum(5, hashlib.sha256(b"state").hexdigest()) for name in names}
    assert set(synced) == {(run.path / name).stat().st_ino for name in names}
    assert {str(path.relative_to(run.path)) for path in run.path.glob("rounds/**/*.*")} == names


def test_an_evaluation_counts_once_it_is_accepted(run):
    run.begin_round(0)
    outbox = run.new_outbox(0)
    for client in (0, 1):
        pd.DataFrame({"client": [client]}).to_parquet(outbox.path / f"{client}.parquet")
        (outbox.path / f"{client}.json").write_text(json.dumps({"client": client}))
    run.accept(0, outbox, [1])
    records, predictions = run.evaluations(0)
    assert (records, predictions["client"].tolist()) == ([{"client": 1}], [1])


# Whole, and the same: what is checked before a run goes on


READ_BY_A_RESUME = [
    "partition.npz",
    "warm_start.safetensors",
    "rounds.jsonl",
    "current/shared.safetensors",
    "current/strategy.safetensors",
    "current/private/0.safetensors",
    "current/private/1.safetensors",
    "current/evaluation/0.json",
]


@pytest.fixture
def two_rounds(run):
    """Two rounds, of which the second left the state of client 1 as it was."""
    tensor_file.write(run.path / "warm_start.safetensors", private(0))
    do_round(run, 0)
    run.begin_round(1)
    outbox = run.new_outbox(1)
    tensor_file.write(outbox.path / "0.safetensors", private(10))
    (outbox.path / "0.json").write_text(json.dumps({"client": 0}))
    run.accept(1, outbox, [0])
    run.finish_round(1, {"head2.weight": torch.ones(2)}, rows(1), {"memory": torch.ones(2)})
    run.check_whole(Settings())
    return run


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("name", READ_BY_A_RESUME)
def test_a_file_that_is_not_as_it_was_written_is_named_and_the_run_left_alone(two_rounds, name, how):
    path = two_rounds.path / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        files.replace(path, content[:-1] if how == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    before = {other: other.lstat().st_mtime_ns for other in two_rounds.path.rglob("*")}
    with pytest.raises(SettingsError, match=how) as caught:
        two_rounds.check_whole(Settings())
    assert str(caught.value).startswith(f"{path.resolve()}: ")
    assert len(str(caught.value).splitlines()) == 1
    assert {other: other.lstat().st_mtime_ns for other in two_rounds.path.rglob("*")} == before
    files.replace(path, content)
    two_rounds.check_whole(Settings())


def test_rows_after_the_last_finished_round_are_no_damage(two_rounds):
    with (two_rounds.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 2, "sta')
    two_rounds.check_whole(Settings())
    assert two_rounds.rows() == rows(0) + rows(1)


def test_only_what_changed_is_summed_again(two_rounds, monkeypatch):
    summed = []
    of = Checksum.of
    monkeypatch.setattr(Checksum, "of", lambda path: summed.append(path.name) or of(path))
    do_round(two_rounds, 2, wrote=(2,))
    assert sorted(summed) == ["2.safetensors", "rounds.jsonl", "shared.safetensors"]


@pytest.mark.parametrize("damage", [None, "{", "[]", '{"rounds.jsonl": 3}'])
def test_sums_that_are_missing_or_damaged_are_named(two_rounds, damage):
    path = two_rounds.path / "current" / "sha256.json"
    path.unlink() if damage is None else files.replace(path, damage.encode())
    with pytest.raises(SettingsError, match=r"rounds/0001/sha256\.json: missing or damaged"):
        two_rounds.check_whole(Settings())


@pytest.mark.parametrize("copied", [True, False])
def test_a_run_without_its_link_to_the_current_round_is_told(two_rounds, copied):
    run = two_rounds
    if copied:  # with what the links lead to
        run = RunDirectory(Path(shutil.copytree(run.path, run.path.with_name("copy"))))
    else:
        (run.path / "current").unlink()
    with pytest.raises(SettingsError, match=f"^{run.path / 'current'}: is not the link to the last finished round"):
        run.check_whole(Settings())


def test_settings_that_change_no_result_may_be_changed(two_rounds):
    changes = {"engine.kind": "inline", "engine.clients_at_once": 3, "engine.timeout": 5.0, "tracking": "tensorboard"}
    two_rounds.check_whole(Settings.from_flat(changes))
    # Where data and base model lie may change; what they are is told by their fingerprints.
    two_rounds.check_whole(Settings.from_flat({"data.name": "elsewhere.npz", "base.weights": "elsewhere"}))


@pytest.mark.parametrize(("key", "value"), [("partition.alpha", 0.2), ("seed", 1), ("engine.threads", 2)])
def test_settings_that_change_a_result_are_told(two_rounds, key, value):
    begun = Settings().flat()[key]
    with pytest.raises(SettingsError, match=rf"settings\.toml: {key} = {value}, the run was begun with {begun}; "):
        two_rounds.check_whole(Settings.from_flat({key: value}))


@pytest.mark.parametrize("package", ["fed-rebel", "torch"])
def test_another_version_is_told_naming_both(run, package):
    path = run.path / "environment.json"
    environment = json.loads(path.read_text())
    here = environment["versions"][package]
    environment["versions"][package] = "0.0.7"
    path.write_text(json.dumps(environment))
    with pytest.raises(SettingsError, match=f"was begun with {package} = 0.0.7, here it is {re.escape(here[:16])}; "):
        run.check_same({})


# Results, and evaluations


def test_a_run_is_finished_when_its_table_is_there(run):
    clients = pd.DataFrame({"client": [0, 1], "gain": [0.1, -0.2]})
    predictions = pd.DataFrame({"client": [0, 0, 1], "score": [1.5, -2.0, 0.25]})
    run.write_results(clients, predictions)
    assert run.finished
    pd.testing.assert_frame_equal(pd.read_csv(run.path / "clients.csv"), clients)
    pd.testing.assert_frame_equal(pd.read_parquet(run.path / "predictions.parquet"), predictions)


def test_evaluations_come_in_the_order_of_the_clients(run):
    run.begin_round(0)
    for client in (10, 2, 1):
        folder = run.round_path(0) / "evaluation"
        pd.DataFrame({"client": [client] * 2}).to_parquet(folder / f"{client}.parquet")
        (folder / f"{client}.json").write_text(json.dumps({"client": client}))
    records, predictions = run.evaluations(0)
    assert [record["client"] for record in records] == [1, 2, 10]
    assert predictions["client"].tolist() == [1, 1, 2, 2, 10, 10]


# Weights on disk


def test_the_same_tensors_give_the_same_bytes_in_whatever_order(tmp_path):
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2), "n": torch.tensor(7)}
    tensor_file.write(tmp_path / "one", tensors)
    tensor_file.write(tmp_path / "other", dict(reversed(tensors.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    read = tensor_file.read(tmp_path / "one")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "garbage", "directory"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, damage):
    path = tmp_path / "1.safetensors"
    tensor_file.write(path, {"a": torch.ones(100)})
    whole = path.read_bytes()
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "truncated": whole[:-9], "garbage": b"x" * 500}[damage])
    with pytest.raises(ValueError, match=r"\S") as caught:
        tensor_file.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_cannot_be_replaced_is_left_as_it_was(tmp_path):
    files.replace(tmp_path / "file", b"old")
    with pytest.raises(TypeError):
        files.replace(tmp_path / "file", "text, which is no data")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_machine_without_git_can_start_a_run(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    run = RunDirectory.create(tmp_path / "run", Settings(), a_partition(), {})
    assert json.loads((run.path / "environment.json").read_text())["commit"] == "unknown"


def test_the_commit_is_that_of_this_checkout_not_of_a_repository_around_an_installation(monkeypatch, tmp_path):
    def recorded():
        run = RunDirectory.create(tmp_path / f"run{len(list(tmp_path.iterdir()))}", Settings(), a_partition(), {})
        return json.loads((run.path / "environment.json").read_text())["commit"]

    def git(*command):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        done = subprocess.run(["git", "-C", project, *who, *command], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    project = tmp_path / "project"
    installed = project / ".venv" / "lib" / "fed_rebel"
    installed.mkdir(parents=True)
    (project / "fed_rebel").mkdir()
    git("init")
    monkeypatch.setattr(runs, "__file__", str(project / "fed_rebel" / "runs.py"))
    assert recorded() == "unknown"  # nothing is committed yet
    git("commit", "--allow-empty", "-m", "theirs")
    assert recorded() == git("rev-parse", "HEAD")
    monkeypatch.setattr(runs, "__file__", str(installed / "runs.py"))
    assert recorded() == "unknown"


def test_a_file_system_without_hard_links_carries_private_states_over(monkeypatch, tmp_path):
    def no_links(*_):
        raise PermissionError("hard links are not allowed")

    monkeypatch.setattr(os, "link", no_links)
    run = RunDirectory.create(tmp_path / "run", Settings(), a_partition(), {})
    state = {"head1.weight": torch.arange(3.0)}
    run.begin_round(0)
    tensor_file.write(private_file(run.path, 0, 1), state)
    run.finish_round(0, {}, [])
    run.begin_round(1)
    run.finish_round(1, {}, [])
    assert torch.equal(tensor_file.read(run.path / "private" / "1.safetensors")["head1.weight"], state["head1.weight"])
