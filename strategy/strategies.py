"""Strategies by name, and a round of any of them."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from fed_rebel.settings import Settings, SettingsError
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.stages import STATISTICS
from strategy.averaging import average
from strategy.fedavg import FedAvg
from strategy.feddyn import FedDyn
from strategy.fedma import FedMA
from strategy.fednova import FedNova
from strategy.fedprox import FedProx
from strategy.messages import Reply
from strategy.privacy import Private
from strategy.robust import FedMedian, FedTrimmedAvg, Krum, MultiKrum
from strategy.scaffold import Scaffold
from strategy.server_optimisers import FedAdagrad, FedAdam, FedAvgM, FedYogi

OURS: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fednova": FedNova,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedadagrad": FedAdagrad,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "fedma": FedMA,
}


def strategy_of(settings: Settings, round: int) -> FedAvg:
    """The strategy `strategy.name` for a round: one of ours, with differential privacy where there is noise, or a
    subclass of `FedAvg` by its import path.

    Raises `SettingsError` where there is none.
    """
    name = settings.strategy.name
    if ":" not in name:
        named = OURS[name](settings, round)
        return Private(named) if settings.strategy.noise_multiplier else named
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"strategy.name = '{name}': {error}; allowed: MODULE:CLASS of a module that can be imported, installed "
            "or on PYTHONPATH"
        ) from None
    if not (isinstance(found, type) and issubclass(found, FedAvg)):
        raise SettingsError(f"strategy.name = '{name}': no strategy; allowed: a subclass of strategy.fedavg.FedAvg")
    return found(settings, round)


def takes_the_mean(strategy: FedAvg) -> bool:
    """Whether the strategy asks nothing of the replies but their weighted mean: then none needs to be kept."""
    return type(strategy).aggregate is FedAvg.aggregate


def aggregate(strategy: FedAvg, state: Tensors, replies: Sequence[Reply], memory: Tensors) -> tuple[Tensors, Tensors]:
    """The server's tensors after a round, and what the strategy remembers of it; `replies` in any order.

    The strategy has the trained parameters. Statistics of BatchNorm are no parameters, and the warm start's rounds make
    one model of all: both are averaged, whatever the strategy. What no client sent stays as it is. Raises `ValueError`
    without replies.
    """
    if not replies:
        raise ValueError("no replies: there is nothing to average")
    replies = sorted(replies, key=lambda reply: reply.client)
    names = list(replies[0].tensors)
    if replies[0].label_counts:
        return state | average(state, replies, names), memory
    parameters = [name for name in names if state[name].is_floating_point() and not name.endswith(STATISTICS)]
    averaged = average(state, replies, set(names) - set(parameters))
    current = {name: state[name] for name in parameters}
    trained = [replace(reply, tensors={name: reply.tensors[name] for name in parameters}) for reply in replies]
    moved, memory = strategy.aggregate(current, trained, memory)
    return state | averaged | moved, memory
