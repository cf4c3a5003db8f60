"""A client's side of the baselines without an early exit, which train the whole base model."""

import copy
from pathlib import Path

import torch

from clients import private_state
from clients.shard import ClientShard, open_shard
from clients.training import mean, on_cpu, statistics_move, to_send
from fed_rebel.model.resnet import BaseModel
from fed_rebel.training import checkpoint
from fed_rebel.training.stages import FineTuning, train_whole
from strategy.messages import Order, Reply, Stage
from strategy.whole_model import shared_names


def train(order: Order, client: int) -> Reply:
    """Carry out a round's order for one client. Its private state is on disk before and after."""
    torch.set_num_threads(order.settings.engine.threads)
    shard = open_shard(order.settings, client)
    return _private_start(order, shard) if order.stage is Stage.PRIVATE_START else _train(order, shard)


def restore(order: Order, shard: ClientShard) -> BaseModel:
    """The client's model: the base model with the client's own tensors, and the shared ones of the order."""
    model = copy.deepcopy(shard.base)
    start, kept = model.state_dict(), private_state.load(Path(order.run), order.round, shard.client)
    own = {name: tensor for name, tensor in kept.items() if name in start}
    model.load_state_dict(start | own | order.tensors)
    return shard.compute.place(model)


def _private_start(order: Order, shard: ClientShard) -> Reply:
    _save(order, shard, shard.base, None)
    return Reply(shard.client, shard.samples)


def _train(order: Order, shard: ClientShard) -> Reply:
    settings = order.settings
    model = restore(order, shard)
    stage = FineTuning(settings.train.finetune_rate, statistics_move(order), trained=("head", "tail"))
    optimiser = stage.optimiser(model)
    if settings.train.keep_optimisers:
        checkpoint.take_up(model, optimiser, private_state.load(Path(order.run), order.round, shard.client))
    # A last layer of the client's own shall learn how frequent its labels are: that is what it is private for.
    adjust = settings.train.logit_adjustment and settings.method == "fedavg"
    log_shares = shard.shares.log().to(shard.compute.device) if adjust else None
    epochs = [
        train_whole(model, batches, stage, optimiser, shard.compute, log_shares)
        for batches in shard.epochs(settings, order.round)
    ]
    names = shared_names(model, settings)
    shared = {name: tensor for name, tensor in model.state_dict().items() if name in names}
    reply = Reply(shard.client, shard.samples, to_send(order, model, shared), mean(epochs))
    _save(order, shard, model, optimiser if settings.train.keep_optimisers else None)
    return reply


def _save(order: Order, shard: ClientShard, model: BaseModel, optimiser: torch.optim.Optimizer | None) -> None:
    """What is not shared, and what the optimiser remembers where it is to go on in the next round."""
    shared = shared_names(model, order.settings)
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in shared}
    if optimiser is not None:
        own |= checkpoint.optimiser_state(model, optimiser)
    private_state.save(Path(order.run), order.round, shard.client, on_cpu(own))
