"""Clients that go wrong: the round goes on with the others, and what the faulty one wrote does not count."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from faulty_clients import FaultyClients, released
from typer.testing import CliRunner

from fed_rebel.cli import app as cli
from fed_rebel.launch import simulation
from fed_rebel.runs import RunDirectory
from fed_rebel.training.setup import prepare
from strategy.rounds import RunFailed
from strategy.server import Server

# The rounds of these settings: three clients, from the private start on.
PRIVATE_START, DISTILL, PRIVATE_PASS = range(3)
SHORT = {"rounds.warm_start": 0, "rounds.finetune": 0, "train.batch_size": 24}

TOLD = {
    "raises": "a client's own trouble",
    "writes and raises": "a client's own trouble",
    "not finite": "not finite",
    "wrong shapes": "not what it was sent",
    "missing tensors": "another form than most",
    "no samples": "samples = 0",
}


@pytest.fixture(scope="module")
def begin(tiny_settings):
    """A new run of the short settings: `begin(path, changes)`."""

    def begin(path, changes=None):
        settings = tiny_settings(SHORT | (changes or {}))
        setup = prepare(settings)
        return RunDirectory.create(path, settings, setup.partition, setup.identity), settings

    return begin


@pytest.fixture(scope="module")
def healthy(begin, go_on, tmp_path_factory):
    """A finished run without a fault, and a copy of it as it was after each round."""
    folder = tmp_path_factory.mktemp("healthy")
    run, settings = begin(folder / "run")
    go_on(run, settings, lambda number, run: shutil.copytree(run.path, folder / str(number), symlinks=True))
    return folder


@pytest.fixture
def after(healthy, tmp_path):
    """The healthy run as it was after a round, to go on with: `after(PRIVATE_START)`."""

    def at(number, name="run"):
        shutil.copytree(healthy / str(number), tmp_path / name, symlinks=True)
        return RunDirectory.open(tmp_path / name)[0]

    return at


def private_states(run):
    return {path.stem: path.read_bytes() for path in (run.path / "private").iterdir()}


def row_of(run, number, client):
    (row,) = (row for row in run.rows() if (row["round"], row["client"]) == (number, client))
    return row


def stop_after(number):
    def stop(ended, _):
        if ended == number:
            raise KeyboardInterrupt

    return stop


# A fault in training


@pytest.mark.parametrize("how", TOLD)
def test_the_round_goes_on_with_the_others_and_the_faulty_client_keeps_its_state(after, go_on, tiny_settings, how):
    run, settings = after(PRIVATE_START), tiny_settings(SHORT | {"rounds.evaluate_every": 0})
    before = private_states(run)
    faulty = FaultyClients({(DISTILL, "train", 1): how})
    ended = go_on(run, settings, stop_after(DISTILL), app=faulty)
    assert isinstance(ended.ended_by, KeyboardInterrupt)
    ((number, fault),) = ended.faults
    assert (number, fault.client) == (DISTILL, 1)
    assert TOLD[how] in fault.reason
    assert len(fault.reason.splitlines()) == 1
    assert row_of(run, DISTILL, 1)["fault"] == fault.reason
    assert "fault" not in row_of(run, DISTILL, 0)
    changed = {client for client, state in private_states(run).items() if state != before[client]}
    assert changed == {"0", "2"}


def test_too_few_good_replies_end_the_run_which_can_be_resumed(after, go_on, tiny_settings, healthy, results):
    run, settings = after(PRIVATE_START), tiny_settings(SHORT | {"strategy.min_replies": 3})
    ended = go_on(run, settings, app=FaultyClients({(DISTILL, "train", 1): "raises"}))
    assert isinstance(ended.ended_by, RunFailed)
    assert str(ended.ended_by) == (
        "round 2: 2 of 3 clients gave a good reply, strategy.min_replies = 3; "
        "client 1: RuntimeError: a client's own trouble"
    )
    assert run.rounds_done == DISTILL
    assert go_on(run, settings).ended_by is None
    assert results(run) == results(RunDirectory(healthy / "run"))


def test_what_a_client_that_was_given_up_writes_late_does_not_count(after, go_on, tiny_settings):
    released.clear()
    settings = tiny_settings(SHORT | {"engine.timeout": 12.0, "rounds.evaluate_every": 0})
    run, expected = after(PRIVATE_START), after(PRIVATE_START, "expected")

    def release(number, _):
        if number == DISTILL:
            released.set()  # it writes while the next round is at work

    late = go_on(run, settings, release, app=FaultyClients({(DISTILL, "train", 1): "writes late"}))
    ((_, fault),) = late.faults
    assert fault.reason == "longer at work than engine.timeout = 12 s"
    go_on(expected, settings, app=FaultyClients({(DISTILL, "train", 1): "raises"}))
    assert private_states(run) == private_states(expected)
    run.check_whole(RunDirectory.open(run.path)[1])


def test_a_client_whose_disk_is_full_ends_the_run_which_resumes_to_the_same_bytes(
    after, go_on, tiny_settings, healthy, results
):
    run, settings = after(PRIVATE_START), tiny_settings(SHORT)
    for kind in ("train", "evaluate"):
        ended = go_on(run, settings, app=FaultyClients({(DISTILL, kind, 1): "disk full"}))
        assert str(ended.ended_by) == "round 2: client 1: [Errno 27] File too large; make room"
        assert run.rounds_done == DISTILL
    assert go_on(run, settings).ended_by is None
    assert results(run) == results(RunDirectory(healthy / "run"))


# A fault in the private start


def test_a_client_without_a_private_state_is_left_out_of_the_rest_also_after_a_resume(begin, go_on, tmp_path, results):
    faulty = FaultyClients({(PRIVATE_START, "train", 1): "writes and raises"})
    run, settings = begin(tmp_path / "run")
    ended = go_on(run, settings, app=faulty)
    ((number, fault),) = ended.faults  # said once
    assert (number, fault.client) == (PRIVATE_START, 1)
    assert fault.reason.endswith(
        "a client's own trouble; without a private state it is left out of the rest of the run"
    )
    assert sorted(private_states(run)) == ["0", "2"]
    assert {row["client"] for row in run.rows() if row["round"] > PRIVATE_START} == {0, 2, None}
    assert pd.read_csv(run.path / "clients.csv")["client"].tolist() == [0, 2]
    resumed, _ = begin(tmp_path / "resumed")
    go_on(resumed, settings, stop_after(PRIVATE_START), app=faulty)
    assert go_on(resumed, settings).ended_by is None
    assert results(resumed) == results(run)


# A fault in an evaluation


def test_a_client_that_is_not_measured_has_no_measurements_and_is_there_in_the_next_round(after, go_on, tiny_settings):
    run, settings = after(PRIVATE_START), tiny_settings(SHORT)
    ended = go_on(run, settings, app=FaultyClients({(DISTILL, "evaluate", 1): "writes and raises"}))
    ((_, fault),) = ended.faults
    row = row_of(run, DISTILL, 1)
    assert row["fault"] == fault.reason == "not measured: RuntimeError: a client's own trouble"
    assert "remote_acc" not in row
    assert row["samples"] == 24
    assert "remote_acc" in row_of(run, DISTILL, 0)
    assert "remote_acc" in row_of(run, PRIVATE_PASS, 1)
    assert pd.read_csv(run.path / "clients.csv")["client"].tolist() == [0, 1, 2]


def test_a_client_that_fails_in_training_and_in_the_evaluation_has_both_faults_in_its_row(after, go_on, tiny_settings):
    run, settings = after(PRIVATE_START), tiny_settings(SHORT)
    faulty = FaultyClients({(DISTILL, kind, 1): "raises" for kind in ("train", "evaluate")})
    go_on(run, settings, stop_after(DISTILL), app=faulty)
    trouble = "RuntimeError: a client's own trouble"
    assert row_of(run, DISTILL, 1)["fault"] == f"{trouble}; not measured: {trouble}"


def test_a_client_that_is_not_measured_at_the_end_is_missing_in_the_table_and_the_screen_says_so(
    after, monkeypatch, tmp_path
):
    run = after(DISTILL)
    faulty = FaultyClients({(PRIVATE_PASS, "evaluate", 1): "raises", (PRIVATE_PASS, "train", 2): "not finite"})
    monkeypatch.setattr(simulation, "client_app", faulty)
    ended = CliRunner().invoke(cli, ["resume", str(run.path)])
    assert ended.exit_code == 0
    (line,) = ended.stderr.splitlines()
    assert line.startswith("round 3: client 1 left out: not measured: RuntimeError: a client's own trouble; ")
    assert line.endswith("it will be missing in clients.csv")
    assert "not measured, see rounds.jsonl: client 1" in ended.stdout.splitlines()
    assert pd.read_csv(run.path / "clients.csv")["client"].tolist() == [0, 2]
    assert (run.path / "report.html").is_file()


def test_with_too_few_good_replies_the_command_exits_1_in_one_line(after, monkeypatch):
    run = after(DISTILL)
    monkeypatch.setattr(
        simulation, "client_app", FaultyClients({(PRIVATE_PASS, "train", i): "raises" for i in range(3)})
    )
    ended = CliRunner().invoke(cli, ["resume", str(run.path)])
    assert ended.exit_code == 1
    (line,) = ended.stderr.splitlines()
    assert line == (
        "fed-rebel: the run failed: round 3: none of 3 clients gave a good reply, strategy.min_replies = 1; "
        f"client 0: RuntimeError: a client's own trouble; go on with: fed-rebel resume {run.path}"
    )


BUSY_CLIENT = """
import sys, time, torch
from fed_rebel import cli
from fed_rebel.launch.inline import InlineGrid
from flwr.app import Message, RecordDict

def computes_for_ever(message, context):
    weight = torch.ones(64, 64, requires_grad=True)
    while True:
        (weight @ weight).sum().backward()

grid = InlineGrid(computes_for_ever, clients=1, at_once=1)
grid.push_messages([Message(RecordDict(), dst_node_id=2, message_type="query")])
time.sleep(1)
sys.argv = ["fed-rebel", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize(("args", "status"), [(["settings"], 0), (["settings", "--set", "seed=-1"], 2)])
def test_a_client_that_was_given_up_and_still_computes_does_not_change_how_the_command_ends(args, status):
    ended = subprocess.run([sys.executable, "-c", BUSY_CLIENT, *args], capture_output=True, text=True)
    assert ended.returncode == status, ended.stderr
    assert bool(ended.stdout) == (status == 0)


# On Ray


@pytest.mark.slow(80)
@pytest.mark.parametrize(("how", "timeout"), [("dies", 3600.0), ("hangs", 60.0)])
def test_on_ray_the_others_go_on_where_an_actor_dies_or_hangs(begin, go_on, tmp_path, results, how, timeout):
    from rich.console import Console

    from fed_rebel.launch.on_ray import run_on_ray
    from fed_rebel.launch.progress import ProgressDisplay

    run, settings = begin(
        tmp_path / "ray", {"engine.kind": "ray", "engine.timeout": timeout, "rounds.evaluate_every": 0}
    )
    with ProgressDisplay(Console(stderr=True)) as display:
        run_on_ray(Server(settings, run, display), FaultyClients({(DISTILL, "train", 0): how}))
    fault = row_of(run, DISTILL, 0)["fault"]
    assert fault == "its process ended: killed, crashed, or longer at work than engine.timeout"
    assert [row["client"] for row in run.rows() if "fault" in row] == [0]
    expected, settings = begin(tmp_path / "inline", {"rounds.evaluate_every": 0})
    go_on(expected, settings, app=FaultyClients({(DISTILL, "train", 0): "raises"}))
    assert results(run) == results(expected)


def test_rows_with_faults_are_json(after, go_on, tiny_settings):
    run, settings = after(DISTILL), tiny_settings(SHORT)
    go_on(run, settings, app=FaultyClients({(PRIVATE_PASS, "train", 1): "raises"}))
    for line in (run.path / "rounds.jsonl").read_text().splitlines():
        json.loads(line)
