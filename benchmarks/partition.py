"""Dealing 50,000 labels to 1,000 clients, against the partitioner of flwr-datasets."""

from collections.abc import Callable

import numpy as np

from benchmarks.table import Row, faster, within
from benchmarks.timing import in_turn
from partitions import Kind, Partition, deal

CLASSES, ALPHA = 100, 0.1


def rows(quick: bool) -> list[Row]:
    """Everything that a deal does: hold-out, training, validation and test shards of every client."""
    images, clients = (5_000, 50) if quick else (50_000, 1_000)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(images) % CLASSES)
    tests = rng.permutation(np.arange(images // 5) % CLASSES)
    against = f"DirichletPartitioner (by-class) of the same labels, alpha {ALPHA}"
    try:
        theirs = _theirs(labels, clients)
    except ImportError:
        theirs, note = None, "flwr-datasets is not installed: pip install '.[bench]'"
    found = []
    for kind in ("by-client", "by-class"):
        name = f"{kind} partition, {images:,} labels, {clients:,} clients"
        ours = _ours(kind, labels, tests, clients)
        if theirs is None:
            took, sort = in_turn(ours, lambda: np.sort(labels), 3)
            found.append(Row(name, against, faster(20), note=note))
            found.append(Row(f"{name}, in all", "np.sort of the labels", within(1), took, sort))
            continue
        took, other = in_turn(ours, theirs, 3, warm=False)
        found.append(Row(name, against, faster(20), took, other))
        found.append(Row(f"{name}, in all", "the same", within(1), took, other))
    return found


def _ours(kind: Kind, labels: np.ndarray, tests: np.ndarray, clients: int) -> Callable[[], Partition]:
    return lambda: deal(
        labels,
        tests,
        classes=CLASSES,
        kind=kind,
        clients=clients,
        alpha=ALPHA,
        samples=0,  # all that are left beside the hold-out
        classes_per_client=1,
        quantity="equal",
        quantity_skew=1.0,
        seed=0,
    )


def _theirs(labels: np.ndarray, clients: int) -> Callable[[], object]:
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    data = Dataset.from_dict({"label": labels})

    def partition() -> object:
        # Clients without an image are allowed: it would draw again, and again in vain, until there are none.
        partitioner = DirichletPartitioner(clients, "label", ALPHA, min_partition_size=0, seed=0)
        partitioner.dataset = data
        return [partitioner.load_partition(client) for client in range(clients)]

    return partition
