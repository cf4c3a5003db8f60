"""Start a simulation, or go on with one, on the engine that its settings name."""

from pathlib import Path

from clients.app import app as client_app
from fed_rebel.launch.clients_at_once import clients_at_once
from fed_rebel.launch.pretrain import make_ready
from fed_rebel.launch.progress import ProgressDisplay
from fed_rebel.runs import RunDirectory, alone, check_new
from fed_rebel.settings import Settings, SettingsError
from fed_rebel.training.setup import prepare
from strategy.extras import check_installed
from strategy.server import Server
from strategy.tracking import make_experiment, tracked


def begin(settings: Settings, out: Path, display: ProgressDisplay) -> RunDirectory:
    """Everything that can be wrong with settings, data and the place for the run, before the run starts.

    Trains what the settings want trained first (base model, pooled warm start). Raises `ValueError`.
    """
    check_new(out)
    check_installed(settings)
    if settings.partition.kind == "own":
        raise SettingsError(
            "partition.kind = 'own': a simulation has no nodes that bring their own images; allowed: by-client, "
            "by-class, iid, shards, or a deployment (docs/deployment.md)"
        )
    make_experiment(settings)
    setup, _ = make_ready(settings, display)
    return RunDirectory.create(out, settings, setup.partition, setup.identity)


def run(settings: Settings, directory: RunDirectory, display: ProgressDisplay) -> None:
    """Run every round that is not finished and write the results.

    Raises `SettingsError` where another process works on the run, `RunFailed`, and what the engine raises.
    """
    with alone(directory.path):
        prepare(settings)
        with tracked(settings, directory, display) as watcher:
            _run_on_engine(Server(settings, directory, watcher))


def _run_on_engine(server: Server) -> None:
    settings = server.settings
    if settings.engine.kind == "ray":
        from fed_rebel.launch.on_ray import run_on_ray

        run_on_ray(server, client_app)
        return
    from fed_rebel.launch.inline import InlineGrid

    grid = InlineGrid(client_app, settings.partition.clients, clients_at_once(settings), settings.engine.timeout)
    try:
        server.federate(grid)
    finally:
        grid.close()
