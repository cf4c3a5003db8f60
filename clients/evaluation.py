"""A client's evaluation: its own private parts with the new shared part, on its own shards."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from clients import whole_model
from clients.shard import ClientShard
from clients.training import restore
from fed_rebel.datasets import Split
from fed_rebel.exits import Stack
from fed_rebel.exits.rows import FEWEST_TO_CALIBRATE
from fed_rebel.training.folding import fold
from fed_rebel.training.predict import Evidence, observe, observe_network
from fed_rebel.training.stages import noise
from partitions import effective_classes, gini, hold_out
from strategy.messages import Order, Reply


def evaluate(order: Order, shard: ClientShard) -> Reply:
    """Evaluate one client; its predictions and a record of itself go to its disk, and from there where settings say.

    In the last evaluation the predictions hold images of classes outside its shard too, as many as its own at most
    (splits `val_outside`, of the hold-out, and `test_outside`), which no threshold and no accuracy of the table sees.
    """
    torch.set_num_threads(order.settings.engine.threads)
    train, test = shard.dataset.train, shard.dataset.test
    observed = _observer(order, shard)
    log_shares = shard.shares.log()
    val = observed(train, shard.shard.val)
    # The images of a client that brings its own are not balanced.
    balanced = observed(test, np.arange(len(test))) if order.last and order.settings.partition.kind != "own" else None
    own = observed(test, shard.shard.test) if balanced is None else balanced[shard.shard.test]
    stack = val.fit_stack(log_shares) if len(shard.shard.val) >= FEWEST_TO_CALIBRATE else Stack()
    evidence = {"val": val, "test": own}
    counts = shard.label_counts
    test_labels = test.labels[shard.shard.test]
    record = {
        "client": shard.client,
        "train_size": shard.samples,
        "val_size": len(shard.shard.val),
        "test_size": len(shard.shard.test),
        "classes": int((counts > 0).sum()),
        "effective_classes": effective_classes(counts),
        "gini": gini(counts),
        "majority_acc": float((test_labels == counts.argmax()).mean()),
        "stack_remote": stack.remote,
        "stack_local": stack.local,
        "stack_prior": stack.prior,
    }
    if balanced is not None:
        _, held = hold_out(train.labels, shard.classes)
        record["balanced_acc"] = float((balanced.remote.argmax(1).numpy() == balanced.label).mean())
        outside = np.flatnonzero(counts[test.labels] == 0)
        evidence["test_outside"] = balanced[spread(outside, test.labels, len(own.label))]
        outside = held[counts[train.labels[held]] == 0]
        evidence["val_outside"] = observed(train, spread(outside, train.labels, len(val.label)))
    parts = [each.rows(log_shares, stack).assign(split=name) for name, each in evidence.items()]
    predictions = pd.concat(parts, ignore_index=True).assign(client=np.int32(shard.client))
    return Reply(shard.client, shard.samples, files=shard.disk.keep(record, predictions))


def _observer(order: Order, shard: ClientShard) -> Callable[[Split, np.ndarray], Evidence]:
    """What the client's model, with the shared part of the order, makes of images of a split."""
    if order.settings.method != "rebel":
        network = fold(whole_model.restore(order, shard)[0].eval())
        return lambda split, indices: observe_network(network, shard.dataset, split, indices, shard.compute)
    model = fold(restore(order, shard)[0].eval())
    sampled = order.settings.exits.code == "sampled"
    generator = noise(shard.compute.device, order.settings.seed, shard.client, order.round, 1) if sampled else None
    return lambda split, indices: observe(model, shard.dataset, split, indices, shard.compute, generator)


def spread(indices: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the images, evenly spread over their classes."""
    by_class = indices[np.argsort(labels[indices], kind="stable")]
    return by_class[np.linspace(0, len(indices), min(most, len(indices)), endpoint=False).astype(np.int64)]
