"""A client's side of each of ReBEL's stages."""

from pathlib import Path

import torch
from torch import nn

from clients import private_state
from clients.shard import ClientShard, open_shard
from fed_rebel.model.rebel import PRIVATE, SHARED, Rebel
from fed_rebel.tensor_file import Tensors
from fed_rebel.training import checkpoint
from fed_rebel.training.stages import (
    Distillation,
    FineTuning,
    batch_norm_statistics,
    distill,
    finetune,
    noise,
)
from fed_rebel.training.warm_start import build_model, fit_code, fit_early
from strategy.messages import Order, Reply, Stage


def train(order: Order, client: int) -> Reply:
    """Carry out a round's order for one client. Its private state is on disk before and after."""
    torch.set_num_threads(order.settings.engine.threads)
    shard = open_shard(order.settings, client)
    if order.stage is Stage.WARM_START:
        return _warm_start(order, shard)
    if order.stage is Stage.PRIVATE_START:
        return _private_start(order, shard)
    if order.stage is Stage.FINETUNE:
        return _finetune(order, shard)
    return _distill(order, shard)


def restore(order: Order, shard: ClientShard) -> Rebel:
    """The client's model: its own private parts, and the shared ones of the order."""
    model = build_model(order.settings, shard.base, shard.classes, order.early_seed)
    kept = private_state.load(Path(order.run), order.round, shard.client)
    own = {name: tensor for name, tensor in kept.items() if name.split(".", 1)[0] in PRIVATE + SHARED}
    # A shared Head1 is the server's; BatchNorm's statistics, where a client keeps some, are its own.
    statistics = batch_norm_statistics(model)
    model.load_parts(own | {name: t for name, t in order.tensors.items() if name not in own or name not in statistics})
    return shard.compute.place(model)


def _warm_start(order: Order, shard: ClientShard) -> Reply:
    model = build_model(order.settings, shard.base, shard.classes, order.early_seed)
    model.load_parts(order.tensors)
    shard.compute.place(model)
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
    return Reply(shard.client, shard.samples, tensors, losses, tuple(shard.label_counts.tolist()))


def _private_start(order: Order, shard: ClientShard) -> Reply:
    model = build_model(order.settings, shard.base, shard.classes, order.early_seed)
    model.load_parts(order.tensors)
    if order.settings.early.prior == "shares":
        model.early.apply_prior(shard.shares)
    shard.compute.place(model)
    fit_code(model, shard.dataset, shard.shard.train, shard.compute)
    fit_early(model, shard.dataset, shard.shard.train, shard.compute)
    private_state.save(Path(order.run), order.round, shard.client, on_cpu(model.parts(*PRIVATE)))
    return Reply(shard.client, shard.samples)


def _distill(order: Order, shard: ClientShard) -> Reply:
    settings = order.settings
    model = restore(order, shard)
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
    optimiser = _optimiser(order, shard, model, stage)
    losses = _run_distillation(order, shard, model, stage, optimiser)
    if settings.head1 != "frozen":
        fit_code(model, shard.dataset, shard.shard.train, shard.compute)
        fit_early(model, shard.dataset, shard.shard.train, shard.compute)
    averaged = {"head2", "head1"} if settings.head1 == "shared" else {"head2"}
    sent = averaged.intersection(trained) if order.stage is Stage.DISTILL else ()
    reply = Reply(shard.client, shard.samples, to_send(order, model, model.parts(*sent)), losses)
    _save_private(order, shard, model, optimiser)
    return reply


def _finetune(order: Order, shard: ClientShard) -> Reply:
    train = order.settings.train
    model = restore(order, shard)
    stage = FineTuning(train.finetune_rate, statistics_move(order))
    optimiser = _optimiser(order, shard, model, stage)
    log_shares = shard.shares.log().to(shard.compute.device) if train.logit_adjustment else None
    generator = noise(shard.compute.device, order.settings.seed, shard.client, order.round)
    epochs = [
        finetune(model, batches, stage, optimiser, shard.compute, generator, log_shares)
        for batches in shard.epochs(order.settings, order.round)
    ]
    if order.settings.base.batch_norm == "local" or train.keep_optimisers:
        _save_private(order, shard, model, optimiser)
    return Reply(shard.client, shard.samples, to_send(order, model, model.parts(*SHARED)), mean(epochs))


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
        distill(model, shard.base.head, batches, stage, optimiser, shard.compute, generator, present)
        for batches in shard.epochs(order.settings, order.round)
    ]
    return mean(epochs)


def _optimiser(
    order: Order, shard: ClientShard, model: Rebel, stage: Distillation | FineTuning
) -> torch.optim.Optimizer:
    optimiser = stage.optimiser(model)
    if order.settings.train.keep_optimisers:
        checkpoint.take_up(model, optimiser, private_state.load(Path(order.run), order.round, shard.client))
    return optimiser


def _save_private(order: Order, shard: ClientShard, model: Rebel, optimiser: torch.optim.Optimizer) -> None:
    batch_norm, keep_optimisers = order.settings.base.batch_norm, order.settings.train.keep_optimisers
    # Read only where something besides the private parts is kept: with the full GMC it is 300 MB.
    more = batch_norm == "local" or keep_optimisers
    kept = private_state.load(Path(order.run), order.round - 1, shard.client) if more else {}
    tensors = kept | model.parts(*PRIVATE)
    if batch_norm == "local":
        own = {name for name in batch_norm_statistics(model) if name in order.tensors or name in kept}
        tensors |= {name: tensor for name, tensor in model.parts(*SHARED).items() if name in own}
    if keep_optimisers:
        tensors |= checkpoint.optimiser_state(model, optimiser)
    private_state.save(Path(order.run), order.round, shard.client, on_cpu(tensors))


def to_send(order: Order, model: nn.Module, trained: Tensors) -> Tensors:
    """Of what was trained: BatchNorm's statistics only where they are to be averaged, integers never."""
    kept: set[str] = set() if order.settings.base.batch_norm == "aggregate" else batch_norm_statistics(model)
    return {name: t for name, t in on_cpu(trained).items() if name not in kept and t.is_floating_point()}


def statistics_move(order: Order) -> bool:
    """Whether BatchNorm's statistics follow the client's batches."""
    return order.settings.base.batch_norm != "frozen"


def on_cpu(tensors: Tensors) -> Tensors:
    """The tensors, as they are kept and sent."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def mean(epochs: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each loss over a round's epochs."""
    return {name: sum(epoch[name] for epoch in epochs) / len(epochs) for name in epochs[0]}
