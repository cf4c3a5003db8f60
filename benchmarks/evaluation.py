"""The evaluation of all clients, against a bare forward of the same images."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.federation import Watch, federation, run_inline
from benchmarks.table import Row, times
from benchmarks.timing import in_turn, threads
from clients.evaluation import evaluate
from clients.node import Node
from clients.shard import open_shard
from fed_rebel.datasets import Split
from fed_rebel.runs import RunDirectory
from fed_rebel.settings import Settings
from fed_rebel.training.batches import evaluation_batches
from fed_rebel.training.setup import prepare
from fed_rebel.training.warm_start import build_model
from strategy.messages import Order, Stage


def rows(quick: bool) -> list[Row]:
    """That of a round on the way, on a client's own images, and the last, on the whole test set too; on one thread."""
    clients, samples = (2, 64) if quick else (10, 600)
    settings = federation(clients, samples, "rounds.distill=0", "rounds.finetune=0")
    setup, found = prepare(settings), []
    train, test, everything = setup.dataset.train, setup.dataset.test, np.arange(len(setup.dataset.test))
    with tempfile.TemporaryDirectory() as folder, threads(settings.engine.threads):
        run_inline(settings, Path(folder) / "run", Watch())
        run, outbox = RunDirectory(Path(folder) / "run"), Path(folder) / "outbox"
        for last in (False,) if quick else (False, True):
            order = Order(settings, str(run.path), str(outbox), 0, Stage.FINETUNE, 0, last, run.shared())
            parts: list[tuple[Split, np.ndarray]] = []
            for shard in setup.partition.shards:
                parts += [(train, shard.val), (test, everything if last else shard.test)]
            took, bare = in_turn(
                lambda: [evaluate(order, open_shard(order, Node(client))) for client in range(clients)],  # noqa: B023
                _forward(settings, parts),
                3 if last else 9,
                warm=not last,
            )
            images = sum(len(indices) for _, indices in parts)
            name = f"{'last evaluation' if last else 'evaluation'} of {clients} clients, {images:,} images"
            found.append(Row(name, "a bare forward of the same images", times(1.2), took, bare))
    return found


def _forward(settings: Settings, parts: list[tuple[Split, np.ndarray]]) -> Callable[[], None]:
    """All four networks on ready batches."""
    setup = prepare(settings)
    model = build_model(settings, setup.base, len(setup.dataset.classes), settings.seed, setup.compute).eval()
    ready = [list(evaluation_batches(setup.dataset, split, indices)) for split, indices in parts]

    @torch.inference_mode()
    def forward() -> None:
        for batches in ready:
            for images, _ in batches:
                with setup.compute.autocast():
                    code = model.head1(images).mu
                    model.tail(model.head2(code))
                model.early.class_scores(code.flatten(1))

    return forward
