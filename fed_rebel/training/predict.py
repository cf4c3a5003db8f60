"""What a model says of images: a row each, from which every accuracy and curve follows."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fed_rebel.datasets import Dataset, Split
from fed_rebel.early import answer
from fed_rebel.model.rebel import Rebel
from fed_rebel.training.batches import evaluation_batches
from fed_rebel.training.compute import Compute


def predict(
    model: Rebel,
    dataset: Dataset,
    split: Split,
    indices: np.ndarray,
    compute: Compute,
    log_shares: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> pd.DataFrame:
    """What the device says, how sure it is, and what the server says, of the images `indices` of a split.

    Columns `image, label, local_label, confidence, score, remote_label` and, with the log of a client's label shares,
    float32 [C], `remote_prior_label`: the server's answer corrected by them. With a generator the code is a sample of
    the posterior, else its mean. The model is in evaluation mode on the device of `compute`.
    """
    columns: dict[str, list[Tensor]] = {}
    for batch, _ in evaluation_batches(dataset, split, indices):
        images = batch.to(compute.device)
        with torch.inference_mode():
            with compute.autocast():
                posterior = model.head1(images)
                code = posterior.mu if generator is None else model.draw(posterior, generator)
                logits = model.remote_logits(model.code(code))
            local = answer(model.early.class_scores(code.flatten(1)))
        row = {
            "local_label": local.label.to(torch.int16),
            "confidence": local.confidence,
            "score": local.score,
            "remote_label": logits.argmax(1).to(torch.int16),
        }
        if log_shares is not None:
            row["remote_prior_label"] = (logits + log_shares.to(compute.device)).argmax(1).to(torch.int16)
        for name, values in row.items():
            columns.setdefault(name, []).append(values.cpu())
    return pd.DataFrame(
        {"image": indices, "label": split.labels[indices].astype(np.int16)}
        | {name: torch.cat(values).numpy() for name, values in columns.items()}
    )


def labels_of(
    network: Callable[[Tensor], Tensor], dataset: Dataset, split: Split, indices: np.ndarray, compute: Compute
) -> np.ndarray:
    """int64 [N]: the class to which a network, images [B, 3, 32, 32] to logits [B, C], gives the most."""
    with torch.inference_mode(), compute.autocast():
        batches = evaluation_batches(dataset, split, indices)
        return torch.cat([network(images.to(compute.device)).argmax(1).cpu() for images, _ in batches]).numpy()


def accuracy_on_test(network: Callable[[Tensor], Tensor], dataset: Dataset, compute: Compute) -> float:
    """The share of the data set's test images that a network, images to logits, labels rightly."""
    said = labels_of(network, dataset, dataset.test, np.arange(len(dataset.test)), compute)
    return float((said == dataset.test.labels).mean())
