"""A step of joint distillation, against the networks that it cannot do without."""

import numpy as np
import torch

from benchmarks.table import Row, times
from benchmarks.timing import in_turn, threads
from fed_rebel.settings import load
from fed_rebel.training.batches import training_batches
from fed_rebel.training.setup import prepare
from fed_rebel.training.stages import Distillation, distill, noise
from fed_rebel.training.warm_start import build_model

PARTS = ("early", "head1", "head2")


def rows(quick: bool) -> list[Row]:
    """An epoch of the preset demo's first client, against forward and backward alone, on one thread."""
    settings = load(None, [f"partition.samples={128 if quick else 600}"], preset="demo")
    setup = prepare(settings)
    compute, train, size = setup.compute, settings.train, settings.train.batch_size
    model = build_model(settings, setup.base, len(setup.dataset.classes), settings.seed, compute)
    stage = Distillation(PARTS, train.distill_rate, train.distill_early_rate, settings.loss, update_statistics=False)
    optimiser, generator = stage.optimiser(model), noise(compute.device, 0)
    mine = setup.partition.shards[0].train
    ready = [images for images, _ in training_batches(setup.dataset, mine, size, np.random.default_rng(0))]
    likes = _gradients(model, ready)

    def ours() -> None:
        batches = training_batches(setup.dataset, mine, size, np.random.default_rng(0))
        distill(model, setup.teacher.lessons(batches), stage, optimiser, compute, generator)

    def theirs() -> None:
        for images, (of_mu, of_log_var, of_features) in zip(ready, likes, strict=True):
            with compute.autocast():
                with torch.no_grad():
                    setup.base.head(images)
                posterior = model.head1(images)
                features = model.head2(posterior.mu)
            model.zero_grad()
            torch.autograd.backward([*posterior, features], [of_mu, of_log_var, of_features])

    with threads(1):
        took, bare = in_turn(ours, theirs, 2 if quick else 15)
    name = (
        f"an epoch of distillation, {len(mine)} images, batch {size}, {settings.base.backbone}, {settings.early.kind}"
    )
    return [Row(name, "forward and backward of Head, Head1 and Head2 on ready batches", times(1.15), took, bare)]


def _gradients(model: torch.nn.Module, batches: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """For each batch something to send back through the networks."""
    with torch.no_grad():
        outputs = [(*(posterior := model.head1(images)), model.head2(posterior.mu)) for images in batches]
    return [[torch.full_like(output, 1e-3) for output in of_batch] for of_batch in outputs]
