"""What a client has of its own: its images, and the disk that it keeps its private state on."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from clients.disk import Disk, disk_of
from clients.node import Node
from fed_rebel.datasets import Dataset
from fed_rebel.model.resnet import BaseModel
from fed_rebel.settings import Settings, Train
from fed_rebel.training.batches import evaluation_batches, fixed_view, training_batches
from fed_rebel.training.compute import Compute
from fed_rebel.training.setup import Setup, prepare, prepare_own
from fed_rebel.training.stages import Batches, Lessons
from fed_rebel.training.teacher import Teacher
from partitions import Shard, effective_classes, label_histogram, smoothed_shares
from strategy.messages import Greeting, Order

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ClientShard:
    """A client's images, their labels' histogram, its disk, and the frozen base model whose Head teaches it."""

    shard: Shard
    dataset: Dataset
    base: BaseModel
    teacher: Teacher
    compute: Compute
    disk: Disk

    @property
    def client(self) -> int:
        """The client's number, from 0."""
        return self.shard.client

    @property
    def samples(self) -> int:
        """Training images."""
        return len(self.shard.train)

    def weight(self, kind: str) -> float:
        """The client's weight in averages, above 0, by `strategy.weights`."""
        if kind == "classes":
            return effective_classes(self.label_counts)
        return {"samples": float(self.samples), "uniform": 1.0, "sqrt": math.sqrt(self.samples)}[kind]

    @property
    def classes(self) -> int:
        """Classes of the data set, C."""
        return len(self.dataset.classes)

    @property
    def label_counts(self) -> np.ndarray:
        """Training images of each class, int64 [C]."""
        return label_histogram(self.dataset.train.labels[self.shard.train], self.classes)

    @property
    def present(self) -> Tensor:
        """Which classes have a training image, bool [C]."""
        return torch.from_numpy(self.label_counts > 0).to(self.compute.device)

    @property
    def shares(self) -> Tensor:
        """Smoothed label shares, float32 [C], all above 0."""
        return torch.from_numpy(smoothed_shares(self.label_counts)).float()

    def epochs(self, settings: Settings, round: int) -> list[Batches]:
        """The batches of each epoch that a client trains in a round, the same whatever it trains."""
        return _passes(settings.train, lambda number: self._batches(settings, round, number))

    def lessons(self, settings: Settings, round: int) -> list[Lessons]:
        """The same, with what the teacher says of the images; it is kept where they come again in the same views."""

        def epoch(number: int) -> Lessons:
            batches = self._batches(settings, round, number)
            if not (settings.data.views and self.teacher.can_keep(self.samples)):
                yield from self.teacher.lessons(batches)
                return
            view, data, mine = _view(settings, round, number), self.dataset, self.shard.train
            crops = fixed_view(data, settings.seed, view)
            features = self.teacher.kept(
                (self.client, view), lambda: evaluation_batches(data, data.train, mine, view=crops)
            )
            order = torch.from_numpy(self._rng(settings, round, number).permutation(self.samples))
            for (images, labels), chosen in zip(batches, order.split(settings.train.batch_size), strict=True):
                yield images, labels, features[chosen]

        return _passes(settings.train, epoch)

    def _batches(self, settings: Settings, round: int, number: int) -> Batches:
        rng, size = self._rng(settings, round, number), settings.train.batch_size
        if not settings.data.views:
            return training_batches(self.dataset, self.shard.train, size, rng)
        crops = fixed_view(self.dataset, settings.seed, _view(settings, round, number))
        return evaluation_batches(self.dataset, self.dataset.train, rng.permutation(self.shard.train), size, crops)

    def _rng(self, settings: Settings, round: int, number: int) -> np.random.Generator:
        return np.random.default_rng([settings.seed, self.client, round, number])


def _view(settings: Settings, round: int, number: int) -> int:
    """The view of an epoch: they come in turn."""
    return (round * settings.train.local_epochs + number) % settings.data.views


def _passes(train: Train, epoch: Callable[[int], Iterable[T]]) -> list[Iterable[T]]:
    """`train.local_epochs` epochs, or where `train.local_steps` says how many steps there are one of so many."""
    if train.local_steps:
        return [islice(chain.from_iterable(map(epoch, count())), train.local_steps)]
    return [epoch(number) for number in range(train.local_epochs)]


def open_shard(order: Order, node: Node) -> ClientShard:
    """The shard of a client. Raises `ValueError` where the partition has no such client, or its own data do not fit."""
    setup = setup_of(order, node)
    (shard,) = (shard for shard in setup.partition.shards if shard.client == node.client)
    return ClientShard(
        shard, setup.dataset, setup.base, setup.teacher, setup.compute, disk_of(order, node.client, node.disk)
    )


def setup_of(told: Order | Greeting, node: Node) -> Setup:
    """What a client makes of the server's settings and of its own. Raises `ValueError` where the two do not fit."""
    chosen = told.settings.partition
    if node.client >= chosen.clients:
        raise ValueError(f"partition-id = {node.client}: allowed: 0 to {chosen.clients - 1} (partition.clients)")
    if chosen.kind != "own":
        if node.data is not None:
            raise ValueError(f"data.path = {node.data} in the node config: partition.kind = {chosen.kind!r} needs none")
        return prepare(told.settings)
    if node.data is None or node.disk is None or told.form is None:
        raise ValueError("partition.kind = 'own' needs data.path and state in the node config")
    return prepare_own(told.settings, node.data, told.form, node.client, node.disk)
