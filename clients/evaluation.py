"""A client's evaluation: its own Head1 and early classifier with the new shared part, on its own shards."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clients.shard import open_shard
from clients.training import restore
from fed_rebel import tensor_file
from fed_rebel.datasets import Split
from fed_rebel.training.predict import predict
from fed_rebel.training.stages import noise
from partitions import effective_classes, gini
from strategy.messages import Order, Reply


def evaluate(order: Order, client: int) -> Reply:
    """Evaluate one client; its predictions and a record of itself go into the run directory, nothing into the reply."""
    torch.set_num_threads(order.settings.engine.threads)
    shard = open_shard(order.settings, client)
    model = restore(order, shard).eval()
    train, test = shard.dataset.train, shard.dataset.test
    sampled = order.settings.exits.code == "sampled"
    generator = noise(shard.compute.device, order.settings.seed, client, order.round, 1) if sampled else None

    def said_of(split: Split, indices: np.ndarray) -> pd.DataFrame:
        return predict(model, shard.dataset, split, indices, shard.compute, shard.shares.log(), generator)

    parts = [said_of(train, shard.shard.val).assign(split="val"), said_of(test, shard.shard.test).assign(split="test")]
    counts = shard.label_counts
    test_labels = test.labels[shard.shard.test]
    record = {
        "client": client,
        "train_size": shard.samples,
        "val_size": len(shard.shard.val),
        "test_size": len(shard.shard.test),
        "classes": int((counts > 0).sum()),
        "effective_classes": effective_classes(counts),
        "gini": gini(counts),
        "majority_acc": float((test_labels == counts.argmax()).mean()),
    }
    if order.last:
        balanced = said_of(test, np.arange(len(test)))
        record["balanced_acc"] = float((balanced["remote_label"] == balanced["label"]).mean())
    folder = Path(order.run) / "rounds" / f"{order.round:04d}" / "evaluation"
    predictions = pd.concat(parts, ignore_index=True).assign(client=np.int32(client))
    tensor_file.replace(folder / f"{client}.parquet", predictions.to_parquet(index=False))
    tensor_file.replace(folder / f"{client}.json", json.dumps(record).encode())
    return Reply(client, shard.samples)
