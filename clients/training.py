"""A client's side of each of ReBEL's stages."""

from dataclasses import replace

import torch
from torch import nn

from clients.disk import Files
from clients.shard import ClientShard
from clients.strategy_side import at_client, reply_of, strategy_state, trainable, without_strategy
from fed_rebel import tensor_file
from fed_rebel.model.rebel import PRIVATE, SHARED, Rebel
from fed_rebel.tensor_file import Tensors, on_cpu
from fed_rebel.training import checkpoint
from fed_rebel.training.drift import clip, pull
from fed_rebel.training.stages import (
    STATISTICS,
    Distillation,
    FineTuning,
    batch_norm_statistics,
    distill,
    finetune,
    noise,
)
from fed_rebel.training.warm_start import build_model, fit_code, fit_early
from strategy.messages import Order, Reply, Stage


def train(order: Order, shard: ClientShard) -> Reply:
    """Carry out a round's order for one client. Its private state is on its disk before and after."""
    torch.set_num_threads(order.settings.engine.threads)
    if order.stage is Stage.WARM_START:
        return _warm_start(order, shard)
    if order.stage is Stage.PRIVATE_START:
        return _private_start(order, shard)
    if order.stage is Stage.FINETUNE:
        return _finetune(order, shard)
    if order.stage is Stage.NEWCOMERS:
        return _newcomer(order, shard)
    return _distill(order, shard)


def restore(order: Order, shard: ClientShard, kept: Tensors | None = None) -> tuple[Rebel, Tensors]:
    """The client's model, its own private parts and the shared ones of the order, and what else it has kept.

    `kept` is its private state where that is not yet on its disk.
    """
    kept = kept or shard.disk.load()
    own = {name: tensor for name, tensor in kept.items() if name.split(".", 1)[0] in PRIVATE + SHARED}
    # A shared Head1 is the server's; BatchNorm's statistics, where a client keeps some, are its own.
    shared = {name: t for name, t in order.tensors.items() if name not in own or not name.endswith(STATISTICS)}
    model = _model(order, shard, own | shared)
    return model, {name: t for name, t in kept.items() if name.split(".", 1)[0] not in PRIVATE}


def _model(order: Order, shard: ClientShard, tensors: Tensors) -> Rebel:
    return build_model(order.settings, shard.base, shard.classes, order.early_seed, shard.compute, tensors)


def _warm_start(order: Order, shard: ClientShard) -> Reply:
    model = _model(order, shard, order.tensors)
    train = order.settings.train
    stage = Distillation(
        trained=("head1", "head2", "early"),
        rate=train.warm_start_rate,
        early_rate=train.warm_start_early_rate,
        loss=order.settings.loss,
        update_statistics=True,
    )
    losses = _run_distillation(order, shard, model, stage, stage.optimiser(model), shard.present)
    fit_code(model, shard.dataset, shard.shard.train, shard.compute)
    tensors = on_cpu(model.parts(*PRIVATE, "head2"))
    weight = shard.weight(order.settings.strategy.weights)
    return Reply(shard.client, shard.samples, tensors, losses, tuple(shard.label_counts.tolist()), weight)


def _private_start(order: Order, shard: ClientShard) -> Reply:
    return Reply(shard.client, shard.samples, files=shard.disk.save(_start(order, shard)))


def _start(order: Order, shard: ClientShard) -> Tensors:
    """A private state to begin with: the order's private parts, with the client's own label prior and its codes."""
    model = _model(order, shard, order.tensors)
    if order.settings.early.prior == "shares":
        model.early.apply_prior(shard.shares.to(shard.compute.device))
    fit_code(model, shard.dataset, shard.shard.train, shard.compute)
    fit_early(model, shard.dataset, shard.shard.train, shard.compute)
    own = model.parts(*PRIVATE)
    if order.settings.train.head1_pull:
        own |= {f"warm.{name}": tensor.clone() for name, tensor in model.parts("head1").items()}
    return on_cpu(own)


def _newcomer(order: Order, shard: ClientShard) -> Reply:
    shared = {name: tensor for name, tensor in order.tensors.items() if name.split(".", 1)[0] in SHARED}
    return _distill(replace(order, tensors=shared), shard, _start(order, shard))


def _distill(order: Order, shard: ClientShard, kept: Tensors | None = None) -> Reply:
    settings = order.settings
    model, kept = restore(order, shard, kept)
    trained = ["early"]
    if settings.head1 == "local" or (settings.head1 == "shared" and order.stage is Stage.DISTILL):
        trained.append("head1")
    if order.stage is Stage.DISTILL:
        trained.append("head2")
    stage = Distillation(
        trained=tuple(trained),
        rate=settings.train.distill_rate,
        early_rate=settings.train.distill_early_rate,
        loss=settings.loss,
        update_statistics=statistics_move(order),
    )
    averaged = {"head2", "head1"} if settings.head1 == "shared" else {"head2"}
    sent = averaged.intersection(trained) if order.stage is Stage.DISTILL else ()
    optimiser = prepared(order, model, stage.optimiser(model), kept)
    if settings.train.head1_pull and "head1" in trained:
        warm = {name: tensor.to(shard.compute.device) for name, tensor in tensor_file.part("warm", kept).items()}
        pull(optimiser, trainable(model, ["head1"]), warm, settings.train.head1_pull)
    strategy = at_client(order, trainable(model, sent), optimiser, kept)
    present = shard.present if settings.train.mask_absent else None
    losses = _run_distillation(order, shard, model, stage, optimiser, present)
    if settings.head1 != "frozen":
        fit_code(model, shard.dataset, shard.shard.train, shard.compute)
        fit_early(model, shard.dataset, shard.shard.train, shard.compute)
    files = _save_private(order, shard, model, optimiser, kept, strategy.kept())
    return reply_of(order, shard, model, model.parts(*sent), losses, strategy, files)


def _finetune(order: Order, shard: ClientShard) -> Reply:
    train = order.settings.train
    model, kept = restore(order, shard)
    stage = FineTuning(train.finetune_rate, statistics_move(order))
    optimiser = prepared(order, model, stage.optimiser(model), kept)
    strategy = at_client(order, trainable(model, SHARED), optimiser, kept)
    log_shares = shard.shares.log().to(shard.compute.device) if train.logit_adjustment else None
    generator = noise(shard.compute.device, order.settings.seed, shard.client, order.round)
    epochs = [
        finetune(model, batches, stage, optimiser, shard.compute, generator, log_shares)
        for batches in shard.epochs(order.settings, order.round)
    ]
    changed = order.settings.base.batch_norm == "local" or train.keep_optimisers or strategy.kept()
    files = _save_private(order, shard, model, optimiser, kept, strategy.kept()) if changed else {}
    return reply_of(order, shard, model, model.parts(*SHARED), mean(epochs), strategy, files)


def _run_distillation(
    order: Order,
    shard: ClientShard,
    model: Rebel,
    stage: Distillation,
    optimiser: torch.optim.Optimizer,
    present: torch.Tensor | None = None,
) -> dict[str, float]:
    generator = noise(shard.compute.device, order.settings.seed, shard.client, order.round)
    epochs = [
        distill(model, lessons, stage, optimiser, shard.compute, generator, present)
        for lessons in shard.lessons(order.settings, order.round)
    ]
    return mean(epochs)


def prepared(order: Order, model: nn.Module, optimiser: torch.optim.Optimizer, kept: Tensors) -> torch.optim.Optimizer:
    """A fresh optimiser as the settings want it: going on from what the client kept of it, with gradients clipped."""
    train = order.settings.train
    if train.keep_optimisers:
        checkpoint.take_up(model, optimiser, kept)
    if train.clip:
        clip(optimiser, train.clip)
    return optimiser


def _save_private(
    order: Order,
    shard: ClientShard,
    model: Rebel,
    optimiser: torch.optim.Optimizer,
    kept: Tensors,
    of_strategy: Tensors,
) -> Files:
    batch_norm, keep_optimisers = order.settings.base.batch_norm, order.settings.train.keep_optimisers
    tensors = without_strategy(kept) | model.parts(*PRIVATE) | strategy_state(order, of_strategy)
    if batch_norm == "local":
        own = {name for name in batch_norm_statistics(model) if name in order.tensors or name in kept}
        tensors |= {name: tensor for name, tensor in model.parts(*SHARED).items() if name in own}
    if keep_optimisers:
        tensors |= checkpoint.optimiser_state(model, optimiser)
    return shard.disk.save(on_cpu(tensors))


def statistics_move(order: Order) -> bool:
    """Whether BatchNorm's statistics follow the client's batches."""
    return order.settings.base.batch_norm != "frozen"


def mean(epochs: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each loss over a round's epochs."""
    return {name: sum(epoch[name] for epoch in epochs) / len(epochs) for name in epochs[0]}
