"""Training the base model on pooled data (the paper's pre-trained network)."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from fed_rebel.datasets import Dataset
from fed_rebel.model.resnet import BaseModel, build_base_model
from fed_rebel.settings import Base
from fed_rebel.training import checkpoint
from fed_rebel.training.batches import on_cycle, training_batches
from fed_rebel.training.compute import Compute

EpochDone = Callable[[int, int, float], None]
"""Called after each epoch with its number (from 1), the number of epochs, and the mean training loss."""


def base_key(dataset: Dataset, base: Base, seed: int, compute: Compute) -> str:
    """What a trained base model depends on, as 16 hexadecimal digits: the name of its file in the cache."""
    trained = base.model_dump(exclude={"weights", "batch_norm"})
    identity = [dataset.fingerprint, dataset.flip, trained, seed, compute.device.type, compute.bfloat16]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def train_base(
    dataset: Dataset,
    indices: np.ndarray,
    base: Base,
    seed: int,
    compute: Compute,
    partial: Path,
    epoch_done: EpochDone,
) -> BaseModel:
    """Train `base.epochs` epochs on the training images `indices`, and give the model back in evaluation mode.

    SGD with Nesterov momentum, a one-cycle learning rate, crop and flip. After each epoch the state goes to `partial`,
    from which an interrupted training goes on; the result is the same as that of one that was not interrupted.
    """
    model = compute.place(build_base_model(base.backbone, len(dataset.classes), seed))
    forward = torch.compile(model) if base.compile else model
    optimiser = torch.optim.SGD(
        model.parameters(), base.learning_rate, momentum=0.9, weight_decay=base.weight_decay, nesterov=True
    )
    first_epoch = checkpoint.restore(partial, model, [optimiser])
    steps = max(1, len(indices) // base.batch_size)
    model.train()
    for epoch in range(first_epoch, base.epochs):
        rng = np.random.default_rng([seed, epoch])
        batches = training_batches(dataset, indices, base.batch_size, rng, drop_last=len(indices) >= base.batch_size)
        losses = []
        for images, labels in on_cycle(batches, optimiser, epoch * steps, base.epochs * steps):
            with compute.autocast():
                logits = forward(images.to(compute.device))
            loss = cross_entropy(logits.float(), labels.to(compute.device), label_smoothing=base.label_smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        checkpoint.save(partial, model, [optimiser], epoch + 1)
        epoch_done(epoch + 1, base.epochs, torch.stack(losses).mean().item())
    return model.eval()
