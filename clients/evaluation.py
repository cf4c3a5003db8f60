"""A client's evaluation: its own Head1 and early classifier with the new shared part, on its own shards."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clients.shard import ClientShard, open_shard
from clients.training import restore
from fed_rebel import tensor_file
from fed_rebel.datasets import Split
from fed_rebel.early import answer
from fed_rebel.model.code import sample
from fed_rebel.model.rebel import Rebel
from fed_rebel.training.batches import evaluation_batches
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
    parts = [
        _predict(model, shard, train, shard.shard.val, generator).assign(split="val"),
        _predict(model, shard, test, shard.shard.test, generator).assign(split="test"),
    ]
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
        everything = np.arange(len(test))
        balanced = _predict(model, shard, test, everything, generator)
        record["balanced_acc"] = float((balanced["remote_label"] == balanced["label"]).mean())
    folder = Path(order.run) / "rounds" / f"{order.round:04d}" / "evaluation"
    predictions = pd.concat(parts, ignore_index=True).assign(client=np.int32(client))
    tensor_file.replace(folder / f"{client}.parquet", predictions.to_parquet(index=False))
    tensor_file.replace(folder / f"{client}.json", json.dumps(record).encode())
    return Reply(client, shard.samples)


def _predict(
    model: Rebel, shard: ClientShard, split: Split, indices: np.ndarray, generator: torch.Generator | None
) -> pd.DataFrame:
    """A row an image: what the device says, how sure it is, and what the server says with and without the prior."""
    log_shares = shard.shares.log().to(shard.compute.device)
    columns: dict[str, list[Tensor]] = {}
    for batch, _ in evaluation_batches(shard.dataset, split, indices):
        images = batch.to(shard.compute.device)
        with torch.inference_mode():
            with shard.compute.autocast():
                posterior = model.head1(images)
                code = posterior.mu if generator is None else sample(posterior, generator)
                logits = model.remote_logits(model.code(code))
            local = answer(model.early.class_scores(code.flatten(1)))
        row = {
            "local_label": local.label.to(torch.int16),
            "confidence": local.confidence,
            "score": local.score,
            "remote_label": logits.argmax(1).to(torch.int16),
            "remote_prior_label": (logits + log_shares).argmax(1).to(torch.int16),
        }
        for name, values in row.items():
            columns.setdefault(name, []).append(values.cpu())
    return pd.DataFrame(
        {"image": indices, "label": split.labels[indices].astype(np.int16)}
        | {name: torch.cat(values).numpy() for name, values in columns.items()}
    )
