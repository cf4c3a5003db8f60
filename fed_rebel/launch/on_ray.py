"""The Ray engine: Flower's simulation, its clients actors of a Ray cluster."""

import faulthandler
import logging
import os
from dataclasses import dataclass, replace
from queue import Queue
from threading import Event
from typing import Any, cast

import ray
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce import vce_api
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.simulation.ray_transport.ray_actor import BasicActorPool
from flwr.supercore.date import now
from ray.exceptions import RayActorError

from fed_rebel.datasets import data_directory
from fed_rebel.launch.clients_at_once import clients_at_once
from fed_rebel.settings import Settings, SettingsError
from strategy.rounds import RunFailed
from strategy.server import Server


@dataclass(frozen=True)
class TimeLimit:
    """A ClientApp whose process ends where a call takes longer; where it was is told on standard error.

    Nobody else ends it, and Flower waits for all its actors at the end of a run.
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


class LastingPool(BasicActorPool):
    """Flower's pool of actors, but an actor that died is replaced.

    Flower gives it back to work, where every further client that it gets fails at once.
    """

    def fetch_result_and_return_actor_to_pool(self, future: Any) -> tuple[Message, Context]:
        """As in Flower, whose backend puts the actor of a future that failed back into the pool."""
        try:
            return super().fetch_result_and_return_actor_to_pool(future)
        except RayActorError:
            self._future_to_actor[future] = self.create_actor_fn()
            raise RuntimeError("its process ended: killed, crashed, or longer at work than engine.timeout") from None


def hand_out(state: Any, queue: "Queue[Message]", nodes_mapping: Any, f_stop: Event) -> None:
    """Flower's extractor of messages, in one look at them all.

    Flower's looks through all messages once for each of its nodes: seconds a round with 1,000 clients, in a thread that
    takes them from the clients.
    """
    while not f_stop.wait(0.01):
        with state.lock:
            new = [message for message in state.message_ins_store.values() if message.metadata.delivered_at == ""]
        for message in new:
            message.metadata.delivered_at = now().isoformat()
            queue.put(message)


def run_on_ray(server: Server, client_app: ClientApp) -> None:
    """Run what is left of a run on Ray: on the cluster of RAY_ADDRESS where that is set, else on one of its own.

    Each actor takes `engine.threads` CPUs. A Ray of its own offers as many as the clients that train at once need; on
    a cluster its CPUs say how many that are. Raises `RunFailed`, and `SettingsError` for more than there are.
    """
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        # Enough that no actor waits for the server; Flower looks through all of them each time that it is asked.
        replace(server, most=4 * at_once).federate(grid)

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    raybackend.BasicActorPool = LastingPool  # type: ignore[attr-defined]  # Flower lets nobody choose these two
    vce_api.add_messages_to_queue = hand_out
    settings = server.settings
    at_once = clients_at_once(settings)
    init_args: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR}
    try:
        if "RAY_ADDRESS" in os.environ:
            # Flower, which would connect by itself, lets nobody say what its workers' environment is.
            data = str(data_directory(settings.data.dir or None))
            ray.init(runtime_env={"env_vars": {"FED_REBEL_DATA": data}}, **init_args)
            cpus = int(ray.cluster_resources().get("CPU", 0))
            if not (at_once := cpus // settings.engine.threads):
                raise SettingsError(
                    f"engine.threads = {settings.engine.threads}: the cluster at RAY_ADDRESS has {cpus} CPUs; "
                    "allowed: at most as many"
                )
        else:
            # "local": else Ray would join whatever cluster happens to run on this machine.
            init_args |= {"address": "local", "num_cpus": at_once * settings.engine.threads}
        run_simulation(
            server_app,
            cast(ClientApp, TimeLimit(client_app, settings.engine.timeout)),
            num_supernodes=settings.partition.clients,
            backend_config={
                "init_args": init_args,
                "client_resources": {"num_cpus": settings.engine.threads, "num_gpus": _gpu_share(settings, at_once)},
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
