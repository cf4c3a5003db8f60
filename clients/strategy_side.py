"""A strategy at this client: joined to the optimiser, given what it kept in its last round, and told in the reply."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from clients.disk import Files
from clients.shard import ClientShard
from fed_rebel import tensor_file
from fed_rebel.tensor_file import Tensors, on_cpu
from fed_rebel.training.stages import batch_norm_statistics
from strategy.fedavg import AtClient
from strategy.messages import Order, Reply
from strategy.strategies import strategy_of


def at_client(
    order: Order, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer, kept: Tensors
) -> AtClient:
    """The strategy of the order for these parameters; `kept` is on the client's disk beside its own parts."""
    if not parameters:  # nothing is averaged
        return AtClient({}, optimiser)
    own = tensor_file.part(f"strategy.{order.stage}", kept)
    return strategy_of(order.settings, order.round).at_client(parameters, optimiser, order.beside, own)


def trainable(model: nn.Module, parts: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of the named parts, under `part.name`, in the order of the model."""
    chosen = set(parts)
    return {name: parameter for name, parameter in model.named_parameters() if name.split(".", 1)[0] in chosen}


def strategy_state(order: Order, kept: Tensors) -> Tensors:
    """What a strategy keeps of a round of this stage, as it stands in the client's private state."""
    return tensor_file.prefixed(f"strategy.{order.stage}", kept)


def without_strategy(kept: Tensors) -> Tensors:
    """A private state without what a strategy kept, which a stage replaces or ends."""
    return {name: tensor for name, tensor in kept.items() if not name.startswith("strategy.")}


def reply_of(
    order: Order,
    shard: ClientShard,
    model: nn.Module,
    trained: Tensors,
    losses: dict[str, float],
    strategy: AtClient,
    files: Files,
) -> Reply:
    """The reply to an order to train: of what was trained, BatchNorm's statistics go only where they are averaged, and
    integers never."""
    kept: set[str] = set() if order.settings.base.batch_norm == "aggregate" else batch_norm_statistics(model)
    return Reply(
        client=shard.client,
        samples=shard.samples,
        tensors=on_cpu({name: t for name, t in trained.items() if name not in kept and t.is_floating_point()}),
        losses=losses,
        weight=shard.weight(order.settings.strategy.weights),
        beside=on_cpu(strategy.beside()),
        files=files,
    )
