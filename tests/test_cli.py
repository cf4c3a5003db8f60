"""The command line, as a user types it: what it prints, where it writes, and how it ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fed_rebel import files, tensor_file
from fed_rebel.cli import app, pretrain
from fed_rebel.runs import RunDirectory, alone
from fed_rebel.settings import load

COMMANDS = ("simulate", "resume", "report", "pretrain", "settings")
NO_ROUNDS = {"rounds.warm_start": 0, "rounds.distill": 0, "rounds.finetune": 0}


def invoke(*args):
    """A command in this process."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def typed(*args, **environment):
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fed_rebel.cli", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
        timeout=300,
    )


def refused(ended, *told, status=2):
    """Assert that a command ended with that status, nothing on standard output and one line that tells these words."""
    code = ended.returncode if isinstance(ended, subprocess.CompletedProcess) else ended.exit_code
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stderr.startswith("fed-rebel: ")
    for word in told:
        assert word in ended.stderr
    assert code == status


@pytest.fixture(scope="session")
def write_settings(tiny_settings, tmp_path_factory):
    """A TOML file of the tiny settings with changes on top."""

    def write(changes=None):
        path = tmp_path_factory.mktemp("settings") / "tiny.toml"
        path.write_text(tiny_settings(changes).to_toml(), encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def _work_elsewhere(tmp_path, monkeypatch):
    """What goes to the working directory goes to the test's own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="module")
def simulated(write_settings, tmp_path_factory):
    """A run made by the command line, and how the command ended."""
    path = tmp_path_factory.mktemp("simulated") / "run"
    return path, invoke("simulate", write_settings(), "--out", path)


# A run that goes well


def test_simulate_ends_with_the_table_and_the_report_s_path(simulated):
    path, ended = simulated
    assert ended.exit_code == 0
    *table, last = ended.stdout.splitlines()
    assert last == f"report: {path / 'report.html'}"
    shown = "\n".join(table)
    for heading in ("gini", "local", "remote", "overall", "gain"):
        assert heading in shown.lower()
    rows = [line.split() for line in table if line.split()]
    assert {"0", "1", "2", "mean", "sd"} <= {row[0] for row in rows}
    # Not on a terminal it says no more than that.
    assert ended.stderr == ""


def test_simulate_writes_the_run_directory_and_its_report(simulated, finished, results):
    path, _ = simulated
    run, settings = RunDirectory.open(path)
    assert settings == finished.settings
    # The same settings, the same bytes, whoever started the run.
    assert results(run) == results(finished.run)
    assert (path / "report.html").is_file()
    assert list((path / "figures").iterdir())


def test_a_run_s_settings_can_be_given_again_and_changed(simulated, tmp_path):
    path, _ = simulated
    changes = [arg for key, value in NO_ROUNDS.items() for arg in ("--set", f"{key}={value}")]
    ended = invoke(
        "simulate", path / "settings.toml", *changes, "--set", "partition.alpha=10", "--out", tmp_path / "run"
    )
    assert ended.exit_code == 0
    again = load(tmp_path / "run" / "settings.toml")
    assert (again.partition.alpha, again.rounds.distill) == (10.0, 0)
    assert again.data == load(path / "settings.toml").data


def test_without_out_a_run_gets_a_name_of_its_own_under_runs(write_settings):
    Path("runs/tiny-by-client-1-seed0").mkdir(parents=True)
    ended = invoke("simulate", write_settings(NO_ROUNDS))
    assert ended.exit_code == 0
    assert ended.stdout.splitlines()[-1] == "report: runs/tiny-by-client-1-seed0-2/report.html"
    assert Path("runs/tiny-by-client-1-seed0-2/clients.csv").is_file()


def test_engine_is_short_for_a_setting(write_settings, tmp_path):
    settings = write_settings(NO_ROUNDS | {"engine.kind": "ray"})
    assert invoke("simulate", settings, "--engine", "inline", "--out", tmp_path / "run").exit_code == 0
    assert load(tmp_path / "run" / "settings.toml").engine.kind == "inline"
    refused(invoke("simulate", settings, "--engine", "spark"), "engine.kind", "'spark'", "inline")


def test_resume_of_a_finished_run_shows_its_table_again(finished, results, tmp_path):
    shutil.copytree(finished.run.path, tmp_path / "run", symlinks=True)
    ended = invoke("resume", tmp_path / "run")
    assert ended.exit_code == 0
    assert ended.stdout.splitlines()[-1].startswith("report: ")
    assert results(RunDirectory.open(tmp_path / "run")[0]) == results(finished.run)


def test_resume_of_a_stopped_run_ends_as_one_left_alone(finished, stopped, results):
    run = stopped(3)
    assert invoke("resume", run.path).exit_code == 0
    assert results(run) == results(finished.run)


def test_a_run_goes_on_only_with_what_it_was_begun_with(stopped, tiny, tmp_path, results, finished):
    run = stopped(3)
    settings = (run.path / "settings.toml").read_text()
    with np.load(tiny) as arrays:
        np.savez(tmp_path / "tiny.npz", **{**arrays, "x_test": 255 - arrays["x_test"]})
    (run.path / "settings.toml").write_text(settings.replace(str(tiny), str(tmp_path / "tiny.npz")))
    refused(invoke("resume", run.path), f"{run.path}: was begun with data = ", "here it is")
    (run.path / "settings.toml").write_text(settings.replace(str(tiny), str(tmp_path / "gone.npz")))
    refused(invoke("resume", run.path), "data.name", "gone.npz")
    (run.path / "settings.toml").write_text(settings)
    environment = (run.path / "environment.json").read_text()
    (run.path / "environment.json").write_text(environment[:40])
    refused(invoke("resume", run.path), "environment.json", "does not say what the run was begun with")
    (run.path / "environment.json").write_text(environment)
    assert invoke("resume", run.path).exit_code == 0
    assert results(run) == results(finished.run)


def test_report_writes_the_page_of_a_finished_run(finished, tmp_path):
    shutil.copytree(finished.run.path, tmp_path / "run", symlinks=True)
    ended = invoke("report", tmp_path / "run")
    assert ended.exit_code == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert "mean" in ended.stdout


def test_what_is_pretrained_is_told_and_can_be_started_from(write_settings, tmp_path):
    warm = {
        "rounds.warm_start": 0,
        "warm_start.weights": "pooled",
        "warm_start.epochs": 1,
        "warm_start.finetune_epochs": 1,
        "warm_start.batch_size": 32,
    }
    ended = invoke("pretrain", write_settings(warm), "--out", tmp_path / "warm.safetensors")
    assert ended.exit_code == 0
    assert re.search(r"base model: \d+\.\d\d % of 50 test images", ended.stdout)
    assert "warm start, remote:" in ended.stdout
    weights = tensor_file.read(tmp_path / "warm.safetensors")
    assert {name.split(".")[0] for name in weights} == {"head1", "code", "early", "head2", "tail", "early_seed"}

    ended = invoke("pretrain", write_settings({"rounds.warm_start": 0}), "--out", tmp_path / "base.safetensors")
    assert ended.exit_code == 0
    assert {name.split(".")[0] for name in tensor_file.read(tmp_path / "base.safetensors")} == {"head", "tail"}

    from_files = NO_ROUNDS | {
        "base.weights": str(tmp_path / "base.safetensors"),
        "warm_start.weights": str(tmp_path / "warm.safetensors"),
    }
    assert invoke("simulate", write_settings(from_files), "--out", tmp_path / "run").exit_code == 0
    # Its private start is that warm start.
    start = tensor_file.read(tmp_path / "run" / "warm_start.safetensors")
    assert all((start[name] == tensor.to(start[name].dtype)).all() for name, tensor in weights.items())


def test_with_a_warm_start_that_is_not_trained_the_base_model_is_what_pretrain_writes(
    write_settings, finished, tmp_path
):
    given = {"rounds.warm_start": 0, "warm_start.weights": str(finished.run.path / "warm_start.safetensors")}
    ended = invoke("pretrain", write_settings(given), "--out", tmp_path / "base.safetensors")
    assert ended.exit_code == 0, ended.output
    assert {name.split(".")[0] for name in tensor_file.read(tmp_path / "base.safetensors")} == {"head", "tail"}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--preset", "cifar100", "--set", "base.epochs=20"), ("warm_start.weights = 'shipped'", "'pooled'")),
        (("--preset", "demo", "--set", "method=fedavg", "--set", "warm_start.weights=pooled"), ("method = 'fedavg'",)),
    ],
)
def test_pretrain_of_settings_that_train_nothing_is_one_line_and_exit_status_2(args, told, tmp_path):
    refused(
        invoke("pretrain", *args, "--out", tmp_path / "out.safetensors"), "base.weights = 'shipped'", "'train'", *told
    )
    assert not (tmp_path / "out.safetensors").exists()


def test_the_example_of_pretrain_trains_what_it_says_it_does():
    *_, example = pretrain.__doc__.strip().splitlines()
    chosen = load(preset="cifar100", changes=re.findall(r"--set (\S+)", example))
    assert (chosen.base.weights, chosen.warm_start.weights) == ("train", "pooled")


def test_pooled_images_fewer_than_a_batch_are_one_batch(write_settings, tmp_path):
    few = {
        "rounds.warm_start": 0,
        "warm_start.weights": "pooled",
        "warm_start.epochs": 1,
        "warm_start.finetune_epochs": 1,
        "warm_start.batch_size": 1000,
        "base.batch_size": 1000,
    }
    ended = invoke("pretrain", write_settings(few), "--out", tmp_path / "warm.safetensors")
    assert ended.exit_code == 0
    assert all(tensor.isfinite().all() for tensor in tensor_file.read(tmp_path / "warm.safetensors").values())


def test_settings_prints_a_file_to_start_from(tmp_path):
    ended = invoke("settings", "--preset", "cifar100", "--set", "seed=3")
    assert ended.exit_code == 0
    (tmp_path / "mine.toml").write_text(ended.stdout, encoding="utf-8")
    assert load(tmp_path / "mine.toml") == load(preset="cifar100", changes=["seed=3"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_takes(command):
    ended = invoke(command, "--help")
    assert ended.exit_code == 0
    assert "Usage:" in ended.stdout
    for option in {"simulate": ("preset", "set", "out", "engine"), "pretrain": ("preset", "set", "out")}.get(
        command, ()
    ):
        assert option in ended.stdout


def test_help_lists_the_commands():
    ended = invoke("--help")
    assert ended.exit_code == 0
    for command in COMMANDS:
        assert command in ended.stdout


# Bad input: exit status 2, one line, nothing begun


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--set", "engine.xyzzy=1"), ("engine.xyzzy: unknown key", "engine.kind")),
        (("--set", "partition.alhpa=1"), ("partition.alhpa: unknown key", "did you mean partition.alpha?")),
        (("--set", "partition.alpha=0"), ("partition.alpha = 0", "0.0001", "10000")),
        (("--set", "partition.alpha=nan"), ("partition.alpha = nan", "0.0001", "10000")),
        (("--preset", "cifar10"), ("'cifar10'", "cifar100", "demo")),
    ],
)
def test_as_typed_wrong_settings_are_one_line_and_exit_status_2(args, told):
    refused(typed("simulate", *args), *told)
    assert not list(Path.cwd().iterdir())


def test_as_typed_wrong_data_are_one_line_and_exit_status_2(write_settings, tmp_path):
    settings = write_settings()
    missing = tmp_path / "missing"
    refused(typed("simulate", settings, FED_REBEL_DATA=str(missing)), f"FED_REBEL_DATA: the directory {missing}")
    refused(typed("simulate", settings, "--set", "partition.clients=1000"), "partition.clients = 1000", "at most")
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--set", "partition.alpha=-1"), ("partition.alpha = -1",)),
        (("--set", "partition.alpha=big"), ("partition.alpha = 'big'", "number")),
        (("--set", "partition.clients=1.5"), ("partition.clients = 1.5", "whole number")),
        (("--set", "partition.clients"), ("KEY=VALUE",)),
        (("--set", "warm_start.weights=pooled", "--set", "rounds.warm_start=1"), ("rounds.warm_start = 1", "'pooled'")),
        (("--set", "exits.target=most"), ("exits.target", "'most'", "coverage:X")),
        (("--set", "exits.target=most", "--set", "early.kind=none"), ("exits.target", "'most'", "coverage:X")),
        (("--preset", "demo", "settings.toml"), ("--preset demo", "settings.toml", "one of the two")),
        (("settings.toml",), ("settings.toml", "No such file")),
        (("--set", "data.name=cifar10"), ("data.name", "'cifar10'", "did you mean cifar100?")),
        (("--set", "data.name=no/such.npz"), ("data.name", "no/such.npz")),
        (("--set", "data.name=~nobody-of-that-name/my.npz"), ("data.name", "~nobody-of-that-name/my.npz")),
        (("--set", "data.name=" + 300 * "x"), ("data.name", 300 * "x")),
    ],
)
def test_wrong_settings_are_one_line_and_exit_status_2(args, told):
    refused(invoke("simulate", *args), *told)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"partition.clients": 16}, ("partition.clients = 16", "384 images are needed", "at most the 375")),
        ({"partition.kind": "shards", "partition.classes": 6}, ("partition.classes = 6", "from 1 to 5")),
        ({"partition.kind": "by-class", "partition.quantity": "dirichlet"}, ("partition.quantity", "equal")),
        ({"base.weights": "shipped"}, ("base.weights = 'shipped'", "resnet20", "'train' or a file")),
        ({"base.weights": "trian"}, ("base.weights = 'trian'", "no such file", "'shipped' or 'train'")),
        ({"data.dir": "/no/such"}, ("data.dir", "/no/such", "does not exist")),
    ],
)
def test_settings_that_do_not_fit_the_data_are_one_line_and_exit_status_2(write_settings, changes, told):
    refused(invoke("simulate", write_settings(changes)), *told)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"strategy.name": "nowhere:Mine"}, ("strategy.name = 'nowhere:Mine'", "MODULE:CLASS")),
        ({"warm_start.weights": "no/such", "rounds.warm_start": 0}, ("warm_start.weights = 'no/such'", "no such file")),
        ({"warm_start.weights": "shipped", "rounds.warm_start": 0}, ("warm_start.weights = 'shipped'", "'pooled'")),
    ],
)
def test_what_is_wrong_is_said_before_a_base_model_is_trained(write_settings, data_directory, changes, told):
    before = set(data_directory.rglob("*base-*"))
    refused(invoke("simulate", write_settings({"base.epochs": 3} | changes)), *told)
    assert set(data_directory.rglob("*base-*")) == before
    assert not list(Path.cwd().iterdir())


def test_weights_of_another_model_are_one_line_and_exit_status_2(write_settings, finished, tmp_path):
    warm = str(finished.run.path / "warm_start.safetensors")
    refused(invoke("simulate", write_settings({"base.weights": warm})), "base.weights", "does not fit")
    other = {"warm_start.weights": warm, "rounds.warm_start": 0, "early.components": 3}
    refused(invoke("simulate", write_settings(other)), "warm_start.weights", "early.", "does not fit")
    tensors = {name: t for name, t in tensor_file.read(Path(warm)).items() if not name.startswith("early.")}
    tensor_file.write(tmp_path / "without.safetensors", tensors)
    other = {"warm_start.weights": str(tmp_path / "without.safetensors"), "rounds.warm_start": 0}
    refused(invoke("simulate", write_settings(other)), "warm_start.weights", "lacks early.", "early.kind = 'gmc-diag'")
    shared = str(finished.run.path / "shared.safetensors")
    other = {"warm_start.weights": shared, "rounds.warm_start": 0}
    refused(invoke("simulate", write_settings(other)), "warm_start.weights", "no warm start")


BAD_DATA = {
    "truncated": "truncated",
    "objects": "array of objects",
    "labels out of range": "label 99",
    "wrong shape": "must be uint8 [N, H, W, 3]",
    "no labels": "lacks y_test",
    "not an npz": "not an .npz",
}


@pytest.mark.parametrize("fault", BAD_DATA)
def test_bad_data_are_one_line_and_exit_status_2(write_settings, tiny, tmp_path, fault):
    path = tmp_path / "bad.npz"
    arrays = dict(np.load(tiny))
    if fault == "objects":
        arrays["y_train"] = arrays["y_train"].astype(object)
    elif fault == "labels out of range":
        arrays["y_test"][0] = 99
    elif fault == "wrong shape":
        arrays["x_train"] = arrays["x_train"][:, :, :, :2]
    elif fault == "no labels":
        del arrays["y_test"]
    np.savez(path, **arrays)
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-5000])
    elif fault == "not an npz":
        path.write_bytes(b"a,b\n1,2\n")
    refused(invoke("simulate", write_settings({"data.name": str(path)})), str(path), BAD_DATA[fault])
    assert not list(Path.cwd().iterdir())


def test_data_that_cannot_be_read_are_one_line_and_exit_status_2(write_settings, tmp_path):
    path = tmp_path / "secret.npz"
    path.write_bytes(b"")
    path.chmod(0)
    if os.access(path, os.R_OK):  # as root
        path = Path("/proc/self/mem")
        if not path.exists():
            pytest.skip("root reads every file, and here is no /proc/self/mem that nobody can read from its start")
    refused(invoke("simulate", write_settings({"data.name": str(path)})), path.name, "cannot be read")


def test_a_run_directory_that_exists_is_left_alone(finished, write_settings, tmp_path):
    before = sorted(finished.run.path.rglob("*"))
    ended = invoke("simulate", write_settings({"seed": 5}), "--out", finished.run.path)
    refused(ended, f"--out {finished.run.path}: exists", "fed-rebel resume")
    assert sorted(finished.run.path.rglob("*")) == before


@pytest.mark.parametrize("command", ["resume", "report"])
def test_what_is_no_run_is_one_line_and_exit_status_2(command, tmp_path):
    refused(invoke(command, tmp_path), str(tmp_path))
    refused(invoke(command, tmp_path / "missing"), str(tmp_path / "missing"))


def test_a_report_needs_a_finished_run(stopped):
    run = stopped(2)
    refused(invoke("report", run.path), "clients.csv", "finished run")


# A run that goes badly: exit status 1, what to do, nothing lost


@pytest.mark.parametrize("name", ["shared", "private/1"])
@pytest.mark.parametrize("damage", [None, b"damaged"])
def test_a_run_of_which_a_file_is_damaged_is_left_alone_until_it_is_put_back(finished, stopped, results, name, damage):
    run = stopped(3)
    file = (run.path / f"{name}.safetensors").resolve()
    whole = file.read_bytes()
    file.unlink() if damage is None else files.replace(file, damage)
    told = "missing" if damage is None else "truncated, 7 of"
    before = {path: path.lstat().st_mtime_ns for path in run.path.rglob("*")}
    refused(invoke("resume", run.path), f"{file}: {told}", "put it back as it was")
    assert {path: path.lstat().st_mtime_ns for path in run.path.rglob("*")} == before
    files.replace(file, whole)
    assert invoke("resume", run.path).exit_code == 0
    assert results(run) == results(finished.run)


def test_a_run_goes_on_with_another_engine_and_not_with_other_settings(finished, stopped, results):
    run = stopped(3)
    settings = (run.path / "settings.toml").read_text()
    (run.path / "settings.toml").write_text(settings.replace("alpha = 1.0", "alpha = 2.0"))
    refused(invoke("resume", run.path), "settings.toml: partition.alpha = 2.0, the run was begun with 1.0")
    (run.path / "settings.toml").write_text(settings.replace("clients_at_once = 1", "clients_at_once = 2"))
    assert invoke("resume", run.path).exit_code == 0
    assert results(run) == results(finished.run)


def test_a_run_begun_by_another_version_is_refused_naming_both(stopped):
    run = stopped(3)
    path = run.path / "environment.json"
    environment = json.loads(path.read_text())
    here = environment["versions"]["torch"]
    path.write_text(json.dumps(environment | {"versions": environment["versions"] | {"torch": "1.13.1"}}))
    refused(invoke("resume", run.path), "was begun with torch = 1.13.1", f"here it is {here[:16]}")


def test_a_run_that_another_process_works_on_is_left_alone(stopped):
    run = stopped(1)
    before = {path: path.lstat().st_mtime_ns for path in run.path.rglob("*")}
    with alone(run.path):
        refused(invoke("resume", run.path), str(run.path), "another process is at work here")
    assert {path: path.lstat().st_mtime_ns for path in run.path.rglob("*")} == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of the size asked for: `small_disk("3m")`; asked again, it is resized."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size):
        options = f"remount,size={size}" if place.is_mount() else f"size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
        if done is None or done.returncode:
            pytest.skip(f"no tmpfs can be mounted here ({done.stderr.strip() if done else 'no mount command'})")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing(small_disk, finished, write_settings, results):
    run = small_disk("6m") / "run"
    ended = invoke("simulate", write_settings(), "--out", run)
    refused(ended, "the run failed", "No space left on device", f"fed-rebel resume {run}", status=1)
    small_disk("64m")
    assert invoke("resume", run).exit_code == 0
    assert results(RunDirectory.open(run)[0]) == results(finished.run)


def test_a_full_disk_is_one_line_and_exit_status_2(small_disk, write_settings):
    place = small_disk("4k")
    refused(invoke("simulate", write_settings(), "--out", place / "run"), f"--out {place / 'run'}", "No space left")


def test_no_space_for_the_report_is_one_line(small_disk, finished):
    place = small_disk("64m")
    shutil.copytree(finished.run.path, place / "run", symlinks=True)
    small_disk(shutil.disk_usage(place).used + 500_000)
    refused(invoke("report", place / "run"), "No space left on device")


def with_mark(mark):
    """The processes that were started with this in their environment, by id."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                mark.encode() in (process / "environ").read_bytes()
                and "State:\tZ" not in (process / "status").read_text()
            ):
                found.append(process.name)
        except OSError:
            pass  # it ended, or is another user's
    return found


def wait_for_rows(run, process, deadline=240):
    """Until the run's first evaluated round is over."""
    path, began = run / "rounds.jsonl", time.monotonic()
    while not (path.exists() and "balanced_acc" in path.read_text()):
        assert process.poll() is None
        assert time.monotonic() - began < deadline
        time.sleep(0.02)


@pytest.mark.slow(40)
@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_run_resumes_to_the_same_bytes(
    finished, write_settings, tmp_path, results, by, engine
):
    run, settings, mark = tmp_path / "run", write_settings({"engine.kind": engine}), f"MARK={tmp_path}"
    command = [sys.executable, "-m", "fed_rebel.cli", "simulate", str(settings), "--out", str(run)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MARK": str(tmp_path)},
        start_new_session=True,
        # As at a terminal: what a shell starts in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for_rows(run, process)
    os.killpg(process.pid, by)  # as a terminal does
    signalled = time.monotonic()
    _, told = process.communicate(timeout=120)
    while with_mark(mark):
        assert time.monotonic() - signalled < 10, with_mark(mark)
        time.sleep(0.1)
    if by is signal.SIGINT:
        assert process.returncode == 130
        assert told.splitlines() == [f"fed-rebel: interrupted; go on with: fed-rebel resume {run}"]
    assert not (run / "clients.csv").exists()
    assert typed("resume", run).returncode == 0
    assert results(RunDirectory.open(run)[0]) == results(finished.run)
