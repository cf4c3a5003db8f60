"""Trackers: what they hold is what `rounds.jsonl` holds, each round once, and the run's bytes know nothing of them."""

import importlib.util

import pytest
from typer.testing import CliRunner

from fed_rebel.cli import app
from fed_rebel.launch import simulation
from fed_rebel.settings import SettingsError
from strategy.tracking import make_experiment


class Silent:
    """A watcher that stops the run after a round."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after

    def round_began(self, number, rounds, stage, messages):
        pass

    def replied(self):
        pass

    def fault(self, round, fault):
        pass

    def round_ended(self, rows):
        if rows[0]["round"] == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def stopped_and_resumed(stopped, tiny_settings):
    """The tiny run that goes on after its second round with a tracker, is stopped after the fourth, and goes on."""

    def go(tracking):
        settings = tiny_settings({"tracking": tracking})
        run = stopped(1)
        (run.path / "settings.toml").write_text(settings.to_toml())
        with pytest.raises(KeyboardInterrupt):
            simulation.run(settings, run, Silent(stop_after=3))
        assert not run.finished
        simulation.run(settings, run, Silent())
        return run

    return go


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    """MLflow with a database of the module's own."""
    module = pytest.importorskip("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")
        yield module


def expected(run, name):
    """Round to the mean over clients, or of bytes the sum, from the rows."""
    of_round = {}
    for row in run.rows():
        if name in row:
            of_round.setdefault(row["round"], []).append(row[name])
    return {
        number: sum(values) if name.startswith("bytes") else sum(values) / len(values)
        for number, values in of_round.items()
    }


METRICS = (
    "local_acc",
    "remote_acc",
    "overall_acc",
    "coverage",
    "gain",
    "loss_mimic",
    "loss_finetune",
    "bytes_up",
    "bytes_down",
    "balanced_acc",
)


def test_tensorboard_holds_every_round_once(stopped_and_resumed, finished, results):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = stopped_and_resumed("tensorboard")
    events = event_accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert not {"client", "round", "samples", "seconds"} & set(events.Tags()["scalars"])
    for name in METRICS:
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in told] == sorted(expected(run, name))
        assert [value for _, value in told] == pytest.approx([v for _, v in sorted(expected(run, name).items())])
    assert results(run) == results(finished.run)


def test_a_sweep_makes_the_experiment_before_its_runs_start(tiny_settings, mlflow, monkeypatch):
    for _ in range(2):
        make_experiment(tiny_settings({"tracking": "mlflow"}))
    assert mlflow.MlflowClient().get_experiment_by_name("fed-rebel") is not None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
    with pytest.raises(SettingsError, match="tracking = 'mlflow'"):
        make_experiment(tiny_settings({"tracking": "mlflow"}))


def test_mlflow_holds_every_round_once(stopped_and_resumed, finished, results, mlflow):
    run = stopped_and_resumed("mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("fed-rebel")
    (there,) = client.search_runs([experiment.experiment_id])
    assert there.info.status == "FINISHED"
    assert there.data.params["partition.alpha"] == "1.0"
    for name in METRICS:
        told = [(metric.step, metric.value) for metric in client.get_metric_history(there.info.run_id, name)]
        assert sorted(step for step, _ in told) == sorted(expected(run, name))
        assert dict(told) == pytest.approx(expected(run, name))
    assert results(run) == results(finished.run)


def test_a_tracker_that_fails_is_told_once_and_does_not_end_the_training(
    stopped, tiny_settings, finished, results, mlflow
):
    settings, run = tiny_settings({"tracking": "mlflow"}), stopped(2)

    class Deletes(Silent):
        """After the next round somebody deletes the run that MLflow keeps."""

        def round_ended(self, rows):
            mlflow.MlflowClient().delete_run((run.path / "mlflow.txt").read_text())

    with pytest.warns(UserWarning, match="tracking = 'mlflow' failed") as told:
        simulation.run(settings, run, Deletes())
    assert len([warning for warning in told if "tracking = 'mlflow' failed" in str(warning.message)]) == 1
    assert results(run) == results(finished.run)


def test_a_tracker_that_cannot_begin_is_told_once_and_does_not_end_the_training(
    stopped, tiny_settings, finished, results
):
    pytest.importorskip("tensorboard")
    settings, run = tiny_settings({"tracking": "tensorboard"}), stopped(2)
    (run.path / "tensorboard").write_text("in the way")
    with pytest.warns(UserWarning, match="tracking = 'tensorboard' failed") as told:
        simulation.run(settings, run, Silent())
    assert len([warning for warning in told if "tracking = " in str(warning.message)]) == 1
    assert results(run) == results(finished.run)


@pytest.mark.parametrize("command", ["simulate", "sweep"])
@pytest.mark.parametrize(
    ("needs", "told", "package", "extra"),
    [
        ({"tracking": "tensorboard"}, "tracking = 'tensorboard'", "tensorboard", "tracking"),
        ({"tracking": "mlflow"}, "tracking = 'mlflow'", "mlflow", "mlflow"),
        (
            {"strategy.noise_multiplier": 0.5, "strategy.weights": "uniform", "rounds.warm_start": 0},
            "strategy.noise_multiplier = 0.5",
            "dp_accounting",
            "privacy",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_package_that_is_missing_is_said_before_anything_is_trained(
    tiny_changes, tmp_path, data_directory, monkeypatch, needs, told, package, extra, command
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    changes = tiny_changes | {"warm_start.weights": "none", "base.epochs": 3} | needs
    given = [f"--set={key}={value}" for key, value in changes.items()]
    before = set(data_directory.rglob("*base-*"))
    done = CliRunner().invoke(app, [command, *given, "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert told in done.output
    assert f"pip install 'fed-rebel[{extra}]'" in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert set(data_directory.rglob("*base-*")) == before
