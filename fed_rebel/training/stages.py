"""One epoch of each stage: joint distillation and fine-tuning of a ReBEL model, and training of a whole base model."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fed_rebel.model.rebel import SHARED, Rebel
from fed_rebel.model.resnet import BaseModel
from fed_rebel.settings import Loss
from fed_rebel.training.compute import Compute
from fed_rebel.training.losses import JointLoss, finetuning_loss, joint_loss

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images [B, 3, 32, 32] and labels [B]."""
Lessons = Iterable[tuple[Tensor, Tensor, Tensor]]
"""Images and labels, and what the frozen Head says of the images: features [B, channels, 16, 16]."""


@dataclass(frozen=True)
class Distillation:
    """How the joint loss (Eq. 5) is trained: Adam on the parts named in `trained`, the others fixed."""

    trained: tuple[str, ...]
    rate: float
    early_rate: float
    loss: Loss
    update_statistics: bool
    """Whether BatchNorm sees its batches and updates its running statistics, or keeps to them."""
    task: float = 0.0
    """Weight of the cross-entropy of the server's answer to the code, beside the joint loss."""

    def optimiser(self, model: Rebel) -> torch.optim.Adam:
        """A fresh optimiser; the early classifier has a learning rate of its own."""
        groups = [
            {
                "params": list(model.get_submodule(part).parameters()),
                "lr": self.early_rate if part == "early" else self.rate,
            }
            for part in self.trained
        ]
        return torch.optim.Adam(groups, fused=True)


@dataclass(frozen=True)
class FineTuning:
    """How a cross-entropy is trained: SGD on the parts named in `trained`, the others fixed."""

    rate: float
    update_statistics: bool
    trained: tuple[str, ...] = SHARED
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def optimiser(self, model: nn.Module) -> torch.optim.SGD:
        """A fresh optimiser."""
        parameters = [parameter for part in self.trained for parameter in model.get_submodule(part).parameters()]
        return torch.optim.SGD(
            parameters, lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=True
        )


def distill(
    model: Rebel,
    lessons: Lessons,
    stage: Distillation,
    optimiser: torch.optim.Optimizer,
    compute: Compute,
    generator: torch.Generator,
    present: Tensor | None = None,
) -> dict[str, float]:
    """Train on the joint loss with the frozen Head as the target (Sec. IV-C). Gives the mean of each term."""
    _prepare(model, stage.trained, stage.update_statistics)
    totals: list[Tensor] = []
    for images, labels, target in lessons:
        images, labels, target = (tensor.to(compute.device) for tensor in (images, labels, target))
        with compute.autocast():
            posterior = model.head1(images)
            code = model.draw(posterior, generator)
            features = model.head2(code)
            logits = model.tail(features) if stage.task else None
        loss: JointLoss = joint_loss(features, target, posterior, code, labels, model.early, present)
        total = loss.weighted(stage.loss)
        if logits is not None:
            total = total + stage.task * cross_entropy(logits.float(), labels)
        if total.requires_grad:  # a classifier that is fitted leaves nothing to train where the heads are fixed
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
        totals.append(torch.stack([loss.mimic, loss.regularisation, loss.early]).detach())
    mimic, regularisation, early = torch.stack(totals).mean(0).tolist()
    return {"loss_mimic": mimic, "loss_regularisation": regularisation, "loss_early": early}


def finetune(
    model: Rebel,
    batches: Batches,
    stage: FineTuning,
    optimiser: torch.optim.Optimizer,
    compute: Compute,
    generator: torch.Generator,
    log_shares: Tensor | None,
) -> dict[str, float]:
    """Train Head2 and Tail on cross-entropy through the eight-bit code, Head1 fixed (end of Sec. IV-D)."""

    def answers(images: Tensor) -> Tensor:
        with torch.no_grad():
            code = model.code(model.draw(model.head1(images), generator))
        return model.remote_logits(code)

    return {"loss_finetune": _train(model, answers, batches, stage, optimiser, compute, log_shares)}


def train_whole(
    model: BaseModel,
    batches: Batches,
    stage: FineTuning,
    optimiser: torch.optim.Optimizer,
    compute: Compute,
    log_shares: Tensor | None,
) -> dict[str, float]:
    """Train a base model on cross-entropy, as the baselines without an early exit do."""

    def answers(images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return logits.float()

    return {"loss_whole": _train(model, answers, batches, stage, optimiser, compute, log_shares)}


def _train(
    model: nn.Module,
    answers: Callable[[Tensor], Tensor],
    batches: Batches,
    stage: FineTuning,
    optimiser: torch.optim.Optimizer,
    compute: Compute,
    log_shares: Tensor | None,
) -> float:
    """An epoch of SGD on the cross-entropy of the answers to images, logits [B, C]; gives its mean."""
    _prepare(model, stage.trained, stage.update_statistics)
    totals: list[Tensor] = []
    for images, labels in batches:
        images, labels = images.to(compute.device), labels.to(compute.device)
        with compute.autocast():
            logits = answers(images)
        loss = finetuning_loss(logits, labels, log_shares)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        totals.append(loss.detach())
    return torch.stack(totals).mean().item()


def _prepare(model: nn.Module, trained: tuple[str, ...], update_statistics: bool) -> None:
    for name, child in model.named_children():
        child.requires_grad_(name in trained)
        child.train(update_statistics and name in trained)


def noise(device: torch.device, *entropy: int) -> torch.Generator:
    """The generator of a stage's sampled codes, from the run's seed, the client, the round and the purpose."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(device).manual_seed(seed)


STATISTICS = ("running_mean", "running_var")
"""How the names of BatchNorm's running means and variances end."""


def batch_norm_statistics(model: nn.Module) -> set[str]:
    """The names of a model's running means and variances."""
    return {name for name, _ in model.named_buffers() if name.endswith(STATISTICS)}
