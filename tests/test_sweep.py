"""A sweep: the grid it is asked for, what it runs and what it leaves alone, and what it tells of failures."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fed_rebel import load_runs
from fed_rebel.cli import app
from fed_rebel.launch import sweep_run
from fed_rebel.launch.grid import Grid, make_grid
from fed_rebel.launch.progress import ProgressDisplay
from fed_rebel.launch.sweep import _unfinished, share_of_cores, sweep, swept_in
from fed_rebel.runs import RunDirectory, alone
from fed_rebel.settings import Settings, load

GRID = ("--set", "partition.alpha=0.1,1")
NAMES = {"alpha=0.1-seed0", "alpha=1-seed0"}


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def refused(ended, *told, status=2):
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    for word in told:
        assert word in ended.stderr
    assert ended.exit_code == status


def runs_in(folder):
    return {path.parent.name for path in folder.glob("*/settings.toml")}


def grid(*changes, seeds=1, swept=()):
    return make_grid(None, "demo", changes, seeds, swept)


@pytest.fixture(scope="session")
def tiny_file(tiny_settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "tiny.toml"
    path.write_text(tiny_settings().to_toml(), encoding="utf-8")
    return path


@pytest.fixture
def display():
    with ProgressDisplay(Console(stderr=True)) as shown:
        yield shown


@pytest.fixture(scope="module")
def swept(tiny_file, tmp_path_factory):
    """A sweep of two alphas made by the command line, and how the command ended."""
    out = tmp_path_factory.mktemp("swept") / "sweep"
    return out, invoke("sweep", tiny_file, *GRID, "--out", out)


# The grid


def test_commas_make_a_grid_and_axes_multiply_with_seeds():
    made = grid("partition.alpha=0.01,1", "early.kind=knn,gmc-diag", "partition.clients=3", seeds=2)
    assert list(made.runs) == [
        f"alpha={alpha}-early.kind={kind}-seed{seed}"
        for alpha in ("0.01", "1")
        for kind in ("knn", "gmc-diag")
        for seed in (0, 1)
    ]
    for settings in made.runs.values():
        assert settings.partition.clients == 3
    assert made.runs["alpha=0.01-early.kind=knn-seed1"] == load(
        None, ["partition.alpha=0.01", "early.kind=knn", "partition.clients=3", "seed=1"], preset="demo"
    )
    assert made.base == load(None, ["partition.clients=3"], preset="demo")


def test_the_order_in_which_axes_are_given_names_the_same_runs():
    one = grid("early.kind=knn,gmc-diag", "partition.alpha=0.01,1")
    assert list(one.runs) == list(grid("partition.alpha=0.01,1", "early.kind=knn,gmc-diag").runs)


def test_seeds_count_from_the_setting_seed():
    assert list(grid("seed=5", seeds=3).runs) == ["seed5", "seed6", "seed7"]


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ("data.name=\"a,b\",'c,d',e", ["a,b", "c,d", "e"]),
        ('data.name="a,b"', ["a,b"]),
        ("data.name=[a]", ["a"]),
        ("data.name=['a', \"b\"]", ["a", "b"]),
    ],
)
def test_quotes_keep_a_comma_and_brackets_make_a_grid_of_one(change, values):
    assert [settings.data.name for settings in grid(change).runs.values()] == values


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("partition.alpha=0.1,-1", "partition.alpha = -1"),
        ("partition.alpha=0.1,,1", "a value is missing"),
        ("partition.alpha=[]", "a value is missing"),
        ("partition.alpha=1,1.0", "called alpha=1-seed0"),
        ("partition.alhpa=0.1,1", "did you mean partition.alpha"),
        ("seed=0,1", "--seeds"),
        ("early.kind=knn,gmcs", "early.kind = 'gmcs'"),
        ("engine.kind=ray,inline", "engine.kind changes no result"),
        ("tracking=[none]", "tracking changes no result"),
    ],
)
def test_wrong_values_are_one_line_and_leave_nothing_behind(change, told, tmp_path):
    refused(invoke("sweep", "--set", change, "--out", tmp_path / "sweep"), told)
    assert not (tmp_path / "sweep").exists()


def test_what_only_the_data_can_tell_is_told_before_anything_is_trained(tiny_file, tmp_path, data_directory):
    before = set(data_directory.rglob("*"))
    ended = invoke("sweep", tiny_file, "--set", "partition.samples=40,100000", "--set", "base.epochs=7", "--out", "s")
    refused(ended, "100000")
    assert not (tmp_path / "s").exists()
    assert not [path for path in set(data_directory.rglob("*")) - before if "base-" in path.name]


# The cores


@pytest.mark.parametrize(
    ("cores", "asked", "changes", "at_once", "kind", "clients"),
    [
        (2, None, {}, 2, "inline", 1),
        (1, None, {}, 1, "inline", 1),
        (8, None, {}, 2, "ray", 4),
        (8, 4, {}, 4, "ray", 2),
        (2, 1, {}, 1, "ray", 2),
        (2, None, {"engine.threads": 2}, 1, "inline", 1),
        (2, None, {"engine.kind": "ray"}, 2, "ray", 1),
        (2, None, {"engine.clients_at_once": 2}, 1, "ray", 2),
        (8, 3, {"engine.kind": "inline", "engine.clients_at_once": 1}, 3, "inline", 1),
    ],
)
def test_the_cores_are_divided_over_the_runs_at_once(monkeypatch, cores, asked, changes, at_once, kind, clients):
    monkeypatch.setattr("fed_rebel.launch.sweep.cores", lambda: cores)
    number, runs = share_of_cores([Settings.from_flat(changes | {"seed": seed}) for seed in range(6)], asked)
    assert number == at_once
    assert {(run.engine.kind, run.engine.clients_at_once) for run in runs} == {(kind, clients)}


# Runs


def test_a_sweep_ends_with_its_runs_table_and_report(swept):
    out, ended = swept
    assert ended.exit_code == 0, ended.stderr
    assert runs_in(out) == NAMES
    for name in NAMES:
        assert RunDirectory.open(out / name)[0].finished
        assert (out / name / "report.html").is_file()
    assert ended.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert "alpha=0.1" in ended.stdout
    # Not on a terminal it says no more than that.
    assert ended.stderr == ""


def test_a_run_of_a_sweep_is_the_run_that_simulate_makes(swept, finished, results):
    out, _ = swept
    assert results(RunDirectory.open(out / "alpha=1-seed0")[0]) == results(finished.run)


def test_the_result_is_one_tidy_table(swept):
    out, _ = swept
    table = load_runs(out)
    assert set(table["run"]) == NAMES
    assert len(table) == 2 * 3
    first = ["run", "seed", "method", "partition.kind", "partition.alpha", "early.kind", "client"]
    assert list(table.columns[:7]) == first
    assert set(zip(table["partition.alpha"], table["seed"], strict=True)) == {(0.1, 0), (1.0, 0)}
    assert load_runs([out / "alpha=1-seed0", out / "alpha=0.1-seed0"])["run"].nunique() == 2
    assert (out / "clients.csv").is_file()


def test_the_same_command_again_runs_nothing(swept, tiny_file):
    out, _ = swept
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/clients.csv")}
    ended = invoke("sweep", tiny_file, *GRID, "--out", out)
    assert ended.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/clients.csv")} == before


@pytest.mark.slow(30)
def test_another_grid_adds_its_runs_where_the_base_is_the_same(swept, tiny_file, tmp_path):
    shutil.copytree(swept[0], tmp_path / "sweep", symlinks=True)
    command = ("sweep", tiny_file, "--set", "partition.alpha=1", "--seeds", "2", "--out", tmp_path / "sweep")
    ended = invoke(*command)
    assert ended.exit_code == 0, ended.stderr
    assert runs_in(tmp_path / "sweep") == NAMES | {"alpha=1-seed1"}
    assert set(load_runs(tmp_path / "sweep")["run"]) == NAMES | {"alpha=1-seed1"}
    refused(invoke(*command, "--set", "train.batch_size=8"), "train.batch_size = 64", "here it is 8")


def test_a_grid_that_meets_a_run_that_is_there_takes_it(swept, tiny_file, display):
    out, _ = swept
    # Head1 "local" and alpha 1 is what the run alpha=1-seed0 is already.
    assert sweep(make_grid(tiny_file, None, ["head1=[local]"], 1, swept_in(out)), out, display) == {}
    assert runs_in(out) == NAMES


def test_a_run_of_the_grid_that_was_begun_under_another_name_goes_on_there(stopped, tiny_settings, tmp_path):
    (tmp_path / "sweep").mkdir()
    shutil.move(stopped(1).path, tmp_path / "sweep" / "begun")
    settings = tiny_settings()
    made = Grid(settings, {"seed": [0]}, {"seed0": settings})
    assert _unfinished(made, tmp_path / "sweep") == {"begun": settings}
    (tmp_path / "sweep" / "begun" / "clients.csv").touch()
    assert _unfinished(made, tmp_path / "sweep") == {}


@pytest.mark.slow(30)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_sweep_takes_its_runs_along_and_goes_on_to_the_same_bytes(swept, tiny_file, tmp_path, results):
    out = tmp_path / "sweep"
    pair, names = ("--set", "partition.alpha=0.1,1"), ("alpha=0.1-seed0", "alpha=1-seed0")
    command = [sys.executable, "-m", "fed_rebel.cli", "sweep", str(tiny_file), *pair, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while not list(out.glob("*/current")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    def at_work():
        commands = (Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit())
        return [path for path in commands if path.exists() and str(out).encode() in path.read_bytes()]

    while at_work() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not at_work()
    assert not (out / "report.html").exists()
    ended = invoke("sweep", tiny_file, *pair, "--out", out)
    assert ended.exit_code == 0, ended.stderr
    for name in names:
        assert results(RunDirectory.open(out / name)[0]) == results(RunDirectory.open(swept[0] / name)[0])


@pytest.mark.slow(30)
def test_an_interrupted_sweep_says_how_to_go_on(tiny_file, tmp_path):
    out = tmp_path / "sweep"
    command = [sys.executable, "-m", "fed_rebel.cli", "sweep", str(tiny_file), *GRID, "--out", str(out)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # As at a terminal: what a shell starts in the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 240
    while not list(out.glob("logs/*.log")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in told


@pytest.mark.slow(30)
def test_a_failed_run_is_told_and_does_not_stop_the_others(stopped, tiny_file, tmp_path):
    out = tmp_path / "sweep"
    out.mkdir()
    broken = out / "alpha=1-seed0"
    shutil.move(stopped(1).path, broken)
    (broken / "environment.json").rename(tmp_path / "environment.json")
    command = ("sweep", tiny_file, "--set", "partition.alpha=1,0.1", "--out", out)
    ended = invoke(*command)
    assert ended.exit_code == 1
    failed, last = ended.stderr.splitlines()
    assert failed.startswith("alpha=1-seed0: failed: ")
    assert "environment.json: does not say what the run was begun with" in failed
    assert "1 of 2 runs failed: alpha=1-seed0" in last
    assert RunDirectory.open(out / "alpha=0.1-seed0")[0].finished
    assert "alpha=0.1" not in last
    assert (out / "report.html").is_file()
    # Mended, the same command tries it again.
    (tmp_path / "environment.json").rename(broken / "environment.json")
    ended = invoke(*command)
    assert ended.exit_code == 0, ended.stderr
    assert RunDirectory.open(broken)[0].finished


def test_two_sweeps_do_not_work_in_one_directory(tiny_file, tmp_path):
    with alone(tmp_path):
        refused(invoke("sweep", tiny_file, *GRID, "--out", tmp_path), str(tmp_path), "another process is at work here")


def test_a_sweep_does_not_go_into_a_run(finished, tiny_file):
    refused(invoke("sweep", tiny_file, *GRID, "--out", finished.run.path), "is a run")


def test_a_sweep_that_goes_on_divides_the_cores_anew(stopped, tiny_settings, tmp_path, monkeypatch, display):
    monkeypatch.setattr("fed_rebel.launch.sweep.cores", lambda: 4)
    settings = tiny_settings({"engine.clients_at_once": 0})
    path = tmp_path / "sweep" / "seed0"
    path.parent.mkdir()
    shutil.move(stopped(3).path, path)  # begun with one client at once
    made = Grid(settings, {"seed": [0]}, {"seed0": settings})
    monkeypatch.setattr(sys, "executable", "/bin/echo")  # what would be run
    assert sweep(made, path.parent, display) == {}
    log = (tmp_path / "sweep" / "logs" / "seed0.log").read_text()
    assert log.strip() == f"-m fed_rebel.launch.sweep_run {path} inline 3"


def test_a_run_goes_on_with_the_share_of_the_cores_that_it_is_given(stopped, monkeypatch):
    given = []
    monkeypatch.setattr(sweep_run, "run", lambda settings, *_: given.append(settings.engine))
    monkeypatch.setattr(sweep_run, "write_report", lambda _: None)
    sweep_run.go_on(stopped(3).path, "ray", 2)
    assert [(engine.kind, engine.clients_at_once) for engine in given] == [("ray", 2)]


def test_a_damaged_sweep_file_is_one_line(tiny_file, tmp_path):
    (tmp_path / "sweep.toml").write_text("[grid]\nseed = 3\n[base]\n")
    refused(invoke("sweep", tiny_file, "--out", tmp_path), f"{tmp_path / 'sweep.toml'}: damaged ([grid] seed = 3")


# Reports over several runs


def test_a_report_of_a_sweep_is_written_anew(swept):
    out, _ = swept
    (out / "report.html").unlink()
    ended = invoke("report", out)
    assert ended.exit_code == 0, ended.stderr
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in NAMES:
        assert f'href="{name}/report.html"' in page


def test_a_report_of_several_runs_goes_into_a_directory_here(swept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = swept
    ended = invoke("report", out / "alpha=1-seed0", out / "alpha=0.1-seed0")
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "report: report/report.html"
    assert (tmp_path / "report" / "clients.csv").is_file()


def test_reports_refuse_what_they_cannot_compare(swept, stopped, finished, tmp_path):
    out, _ = swept
    refused(
        invoke("report", out / "alpha=1-seed0", finished.run.path, "--out", tmp_path / "r"), "same settings and seed"
    )
    refused(invoke("report", out / "alpha=1-seed0", stopped(1).path, "--out", tmp_path / "r"), "not finished")
    refused(invoke("report", out / "alpha=1-seed0", tmp_path, "--out", tmp_path / "r"), "no finished run here")
    refused(invoke("report", out / "alpha=1-seed0", "--out", tmp_path / "r"), "leave --out away")


def test_a_report_over_several_runs_does_not_go_into_a_run(swept):
    run = swept[0] / "alpha=1-seed0"
    before = (run / "clients.csv").read_bytes(), (run / "report.html").read_bytes()
    refused(invoke("report", run, swept[0] / "alpha=0.1-seed0", "--out", run), f"--out {run}", "is a run")
    assert ((run / "clients.csv").read_bytes(), (run / "report.html").read_bytes()) == before


def test_importing_the_package_imports_neither_pandas_nor_torch():
    code = "import sys, fed_rebel; assert not {'pandas', 'torch'} & set(sys.modules); fed_rebel.load_runs; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
