"""A client's side of the baselines without an early exit, which train the whole base model."""

import torch

from clients.disk import Files
from clients.shard import ClientShard
from clients.strategy_side import at_client, reply_of, strategy_state
from clients.training import mean, prepared, statistics_move
from fed_rebel.model.resnet import BaseModel
from fed_rebel.model.twin import twin
from fed_rebel.tensor_file import Tensors, on_cpu
from fed_rebel.training import checkpoint
from fed_rebel.training.stages import FineTuning, train_whole
from strategy.messages import Order, Reply, Stage
from strategy.whole_model import shared_names


def train(order: Order, shard: ClientShard) -> Reply:
    """Carry out a round's order for one client. Its private state is on its disk before and after."""
    torch.set_num_threads(order.settings.engine.threads)
    return _private_start(order, shard) if order.stage is Stage.PRIVATE_START else _train(order, shard)


def restore(order: Order, shard: ClientShard) -> tuple[BaseModel, Tensors]:
    """The client's model, the base model with the client's own tensors and the shared ones of the order, and what else
    it has kept."""
    model = twin(shard.base)
    start, kept = model.state_dict(), shard.disk.load()
    own = {name: tensor for name, tensor in kept.items() if name in start}
    model.load_state_dict(start | own | order.tensors)
    return shard.compute.place(model), {name: tensor for name, tensor in kept.items() if name not in own}


def _private_start(order: Order, shard: ClientShard) -> Reply:
    return Reply(shard.client, shard.samples, files=_save(order, shard, shard.base))


def _train(order: Order, shard: ClientShard) -> Reply:
    settings = order.settings
    model, kept = restore(order, shard)
    stage = FineTuning(settings.train.finetune_rate, statistics_move(order), trained=("head", "tail"))
    optimiser = prepared(order, model, stage.optimiser(model), kept)
    names = shared_names(model, settings)
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in names}
    strategy = at_client(order, parameters, optimiser, kept)
    # A last layer of the client's own shall learn how frequent its labels are: that is what it is private for.
    adjust = settings.train.logit_adjustment and settings.method == "fedavg"
    log_shares = shard.shares.log().to(shard.compute.device) if adjust else None
    epochs = [
        train_whole(model, batches, stage, optimiser, shard.compute, log_shares)
        for batches in shard.epochs(settings, order.round)
    ]
    remembered = checkpoint.optimiser_state(model, optimiser) if settings.train.keep_optimisers else {}
    files = _save(order, shard, model, remembered | strategy_state(order, strategy.kept()))
    shared = {name: tensor for name, tensor in model.state_dict().items() if name in names}
    return reply_of(order, shard, model, shared, mean(epochs), strategy, files)


def _save(order: Order, shard: ClientShard, model: BaseModel, more: Tensors | None = None) -> Files:
    """What is not shared, and what is to be remembered in the next round."""
    shared = shared_names(model, order.settings)
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in shared}
    return shard.disk.save(on_cpu(own | (more or {})))
