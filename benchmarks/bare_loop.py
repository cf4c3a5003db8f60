"""A hand-written loop of exactly the local steps of a federated run: no engine, no messages, no files, no evaluation.

It ends with the bytes of the run's `shared.safetensors`: then both did the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fed_rebel.datasets import augment
from fed_rebel.model.rebel import Rebel
from fed_rebel.settings import Settings
from fed_rebel.tensor_file import Tensors
from fed_rebel.training.losses import mimic_loss
from fed_rebel.training.pretrained import warm_start
from fed_rebel.training.setup import Setup, prepare
from fed_rebel.training.stages import noise
from fed_rebel.training.warm_start import WarmStart, build_model
from partitions import Shard, smoothed_shares
from strategy.plan import plan

TRAINED = {"distill": ("early", "head1", "head2"), "private_pass": ("early", "head1"), "finetune": ("head2", "tail")}
AVERAGED = {"distill": ("head2",), "private_pass": (), "finetune": ("head2", "tail")}


@dataclass
class BareLoop:
    """The clients of a run of the method `rebel`, Head1 local and the early classifier trained, one after another."""

    settings: Settings
    setup: Setup = field(init=False)
    start: WarmStart = field(init=False)
    model: Rebel = field(init=False)

    def __post_init__(self) -> None:
        """Everything that is there before the first step."""
        settings, self.setup = self.settings, prepare(self.settings)
        setup = self.setup
        self.start = warm_start(settings, setup.dataset, setup.base, setup.compute)
        classes, early_seed = len(setup.dataset.classes), self.start.early_seed
        self.model = build_model(settings, setup.base, classes, early_seed, setup.compute)

    def rounds(self) -> Iterator[Tensors]:
        """Head2 and Tail as they begin, then after each round that trains."""
        device = self.setup.compute.device
        shared = {
            name: t.to(device) for name, t in self.start.tensors.items() if name.split(".")[0] in ("head2", "tail")
        }
        private = [self._private_start(shard) for shard in self.setup.partition.shards]
        yield dict(shared)
        for step in plan(self.settings)[1:]:
            sums = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in shared.items()}
            samples = sum(len(shard.train) for shard in self.setup.partition.shards)
            for client, shard in enumerate(self.setup.partition.shards):
                self._load(private[client] | shared)
                self._train(shard, step.stage, step.number)
                if step.stage != "finetune":
                    self._fit_range(shard)
                    private[client] = _copied(self.model.parts("head1", "code", "early"))
                for name, tensor in self.model.parts(*AVERAGED[step.stage]).items():
                    sums[name].add_(tensor, alpha=len(shard.train))
            averaged = {name for name in shared if name.split(".")[0] in AVERAGED[step.stage]}
            fixed = {name for name in averaged if not shared[name].is_floating_point() or _is_statistic(name)}
            shared |= {name: (sums[name] / samples).to(shared[name].dtype) for name in averaged - fixed}
            yield dict(shared)

    def _private_start(self, shard: Shard) -> Tensors:
        self._load(self.start.tensors)
        labels = self.setup.dataset.train.labels[shard.train]
        self.model.early.apply_prior(self._shares(labels))
        self._fit_range(shard)
        return _copied(self.model.parts("head1", "code", "early"))

    def _load(self, tensors: Tensors) -> None:
        own = self.model.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    def _train(self, shard: Shard, stage: str, number: int) -> None:
        settings, model, setup = self.settings, self.model, self.setup
        generator = noise(setup.compute.device, settings.seed, shard.client, number)
        for name, part in model.named_children():
            part.requires_grad_(name in TRAINED[stage])
            part.train(False)
        optimiser = self._optimiser(stage)
        log_shares = self._shares(setup.dataset.train.labels[shard.train]).log()
        for epoch in range(settings.train.local_epochs):
            for images, labels in self._batches(
                shard, np.random.default_rng([settings.seed, shard.client, number, epoch])
            ):
                images, labels = images.to(setup.compute.device), labels.to(setup.compute.device)
                if stage == "finetune":
                    with setup.compute.autocast():
                        with torch.no_grad():
                            code = model.code(model.draw(model.head1(images), generator))
                        logits = model.tail(model.head2(code)).float()
                    loss = cross_entropy(logits + log_shares, labels)
                else:
                    target = setup.teacher(images)
                    with setup.compute.autocast():
                        posterior = model.head1(images)
                        code = model.draw(posterior, generator)
                        features = model.head2(code)
                    mu, log_var = posterior.mu.flatten(1), posterior.log_var.flatten(1)
                    loss = settings.loss.mimic * mimic_loss(features, target)
                    loss = loss + settings.loss.regularisation * model.early.kl(mu, log_var, labels).mean()
                    loss = loss + settings.loss.early * model.early.loss(code.flatten(1), labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    def _optimiser(self, stage: str) -> torch.optim.Optimizer:
        train = self.settings.train
        parts = {name: list(self.model.get_submodule(name).parameters()) for name in TRAINED[stage]}
        if stage == "finetune":
            parameters = [*parts["head2"], *parts["tail"]]
            return torch.optim.SGD(parameters, train.finetune_rate, 0.9, weight_decay=5e-4, nesterov=True)
        rates = {"early": train.distill_early_rate}
        groups = [{"params": own, "lr": rates.get(name, train.distill_rate)} for name, own in parts.items()]
        return torch.optim.Adam(groups, fused=True)

    def _batches(self, shard: Shard, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        data, size = self.setup.dataset, self.settings.train.batch_size
        order = rng.permutation(shard.train)
        for chosen in (order[start : start + size] for start in range(0, len(order), size)):
            crops = augment.Crops.draw(rng, len(chosen), data.flip)
            images = augment.batch(data.train.images[chosen], data.normalisation, crops)
            yield images, torch.from_numpy(data.train.labels[chosen])

    def _fit_range(self, shard: Shard) -> None:
        data, compute = self.setup.dataset, self.setup.compute
        images = data.train.images[shard.train]
        with torch.no_grad(), compute.autocast():
            batches = [augment.batch(images[i : i + 250], data.normalisation) for i in range(0, len(images), 250)]
            self.model.code.fit(torch.cat([self.model.head1(batch.to(compute.device)).mu for batch in batches]))

    def _shares(self, labels: np.ndarray) -> Tensor:
        classes = len(self.setup.dataset.classes)
        shares = torch.from_numpy(smoothed_shares(np.bincount(labels, minlength=classes)))
        return shares.float().to(self.setup.compute.device)


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))
