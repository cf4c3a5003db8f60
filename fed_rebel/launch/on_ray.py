"""The Ray engine: Flower's simulation, its clients actors of a Ray cluster."""

import faulthandler
import logging
import os
from dataclasses import dataclass
from typing import Any, cast

import ray
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fed_rebel.datasets import data_directory
from fed_rebel.launch.clients_at_once import clients_at_once
from fed_rebel.settings import Settings
from strategy.rounds import RunFailed
from strategy.server import Server


@dataclass(frozen=True)
class TimeLimit:
    """A ClientApp whose process ends where a call takes longer, with a line on standard error that says where it was.

    Nobody else can end it: Flower waits for its actors, also at the end of a run.
    """

    client_app: ClientApp
    seconds: float

    def __call__(self, message: Message, context: Context) -> Message:
        """Carry out a message."""
        faulthandler.dump_traceback_later(self.seconds, exit=True)
        try:
            return self.client_app(message, context)
        finally:
            faulthandler.cancel_dump_traceback_later()


def run_on_ray(server: Server, client_app: ClientApp) -> None:
    """Run what is left of a run on Ray: on the cluster of RAY_ADDRESS where that is set, else on one of its own.

    Each actor takes `engine.threads` CPUs. A Ray of its own offers as many as the clients that train at once need; on
    a cluster its CPUs say how many that are.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        server.federate(grid)

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    settings = server.settings
    at_once = clients_at_once(settings)
    init_args: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR}
    try:
        if "RAY_ADDRESS" in os.environ:
            # Flower, which would connect by itself, lets nobody say what its workers' environment is.
            data = str(data_directory(settings.data.dir or None))
            ray.init(runtime_env={"env_vars": {"FED_REBEL_DATA": data}}, **init_args)
        else:
            # "local": else Ray would join whatever cluster happens to run on this machine.
            init_args |= {"address": "local", "num_cpus": at_once * settings.engine.threads}
        run_simulation(
            server_app,
            cast(ClientApp, TimeLimit(client_app, settings.engine.timeout)),
            num_supernodes=settings.partition.clients,
            backend_config={
                "init_args": init_args,
                # Flower hands these to Ray as they are. It puts an actor that died back to work, where every further
                # client would fail at once, so Ray has to start it anew.
                "client_resources": {
                    "num_cpus": settings.engine.threads,
                    "num_gpus": _gpu_share(settings, at_once),
                    "max_restarts": -1,
                },
            },
        )
    except RuntimeError as error:
        raise RunFailed(_root_cause(error)) from error
    finally:
        server.stop.set()
        ray.shutdown()


def _root_cause(error: BaseException) -> str:
    """What happened, which Flower hides behind sentences of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _gpu_share(settings: Settings, at_once: int) -> float:
    import torch

    gpus = torch.cuda.device_count() if settings.engine.device != "cpu" else 0
    return min(1.0, gpus / at_once)
