"""A run on a Ray cluster that is there already, of two nodes."""

from pathlib import Path

import pytest
import ray
from conftest import Listener
from ray.cluster_utils import Cluster
from telling_clients import TellingClients

from fed_rebel.launch.on_ray import run_on_ray
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import SettingsError
from fed_rebel.training.setup import prepare
from strategy.server import Server

pytestmark = pytest.mark.slow(50)


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU each on this machine, which do not know where the data are."""
    with monkeypatch.context() as cluster_s_own:
        cluster_s_own.delenv("FED_REBEL_DATA")
        cluster_s_own.setenv("PYTHONPATH", str(Path(__file__).parent))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def silent(run):
    return Listener(run, lambda *_: None, lambda: None)


def a_run(path, settings):
    setup = prepare(settings)
    return RunDirectory.create(path, settings, setup.partition, setup.identity)


def test_both_nodes_train_clients_and_the_bytes_are_the_same(
    cluster, finished, tiny_settings, results, tmp_path, monkeypatch
):
    settings = tiny_settings({"engine.kind": "ray"})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    joined, met = a_run(tmp_path / "joined", settings), tmp_path / "met"
    met.mkdir()
    run_on_ray(Server(settings, joined, silent(joined)), TellingClients(str(met)))
    assert len(list(met.iterdir())) == 2
    assert results(joined) == results(finished.run)
    greedy = tiny_settings({"engine.kind": "ray", "engine.threads": 64})
    with pytest.raises(SettingsError, match=r"^engine\.threads = 64: the cluster at RAY_ADDRESS has 2 CPUs"):
        run_on_ray(Server(greedy, joined, silent(joined)), TellingClients(str(met)))
    # Without the address a run has a Ray of its own, whatever cluster is at work on the machine.
    monkeypatch.delenv("RAY_ADDRESS")
    alone = a_run(tmp_path / "alone", settings)
    (met_alone := tmp_path / "met alone").mkdir()
    run_on_ray(Server(settings, alone, silent(alone)), TellingClients(str(met_alone)))
    assert len(list(met_alone.iterdir())) == 1
    assert not {node.name for node in met.iterdir()} & {node.name for node in met_alone.iterdir()}
    assert results(alone) == results(finished.run)
    assert not ray.is_initialized()
