"""What a model says of images: a row each, from which every accuracy and curve follows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fed_rebel.datasets import Dataset, Split
from fed_rebel.early import answer
from fed_rebel.exits import Stack
from fed_rebel.model.rebel import Rebel
from fed_rebel.training.batches import evaluation_batches
from fed_rebel.training.compute import Compute


@dataclass(frozen=True, eq=False)
class Evidence:
    """What device and server make of N images of a split."""

    image: NDArray[np.int64]
    """[N]: indices into the split."""
    label: NDArray[np.int64]
    """[N]"""
    local: Tensor
    """[N, C]: the early classifier's log-joint, up to a constant a row."""
    remote: Tensor
    """float32 [N, C]: the server's logits."""

    def __getitem__(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Evidence":
        """That of some of the images."""
        chosen = torch.from_numpy(rows)
        return Evidence(self.image[rows], self.label[rows], self.local[chosen], self.remote[chosen])

    def rows(self, log_shares: Tensor | None = None, stack: Stack | None = None) -> pd.DataFrame:
        """What the device says, how sure it is, and what the server says.

        Columns `image, label, local_label, confidence, score, remote_label`; with the log of a client's label shares,
        float32 [C], `remote_prior_label`: the server's answer corrected by them; with its stack too,
        `remote_stacked_label`.
        """
        local = answer(self.local)
        columns = {
            "image": self.image,
            "label": self.label.astype(np.int16),
            "local_label": local.label.to(torch.int16).numpy(),
            "confidence": local.confidence.numpy(),
            "score": local.score.numpy(),
            "remote_label": self.remote.argmax(1).to(torch.int16).numpy(),
        }
        if log_shares is not None:
            columns["remote_prior_label"] = (self.remote + log_shares).argmax(1).to(torch.int16).numpy()
            if stack is not None:
                columns["remote_stacked_label"] = self._stacked(stack, log_shares)
        return pd.DataFrame(columns)

    def fit_stack(self, log_shares: Tensor) -> Stack:
        """The stack that fits these images; see `Stack.fit`."""
        return Stack.fit(self.remote.numpy(), self.local.numpy(), log_shares.numpy(), self.label)

    def _stacked(self, stack: Stack, log_shares: Tensor) -> NDArray[np.int16]:
        return stack.labels(self.remote.numpy(), self.local.numpy(), log_shares.numpy()).astype(np.int16)


def observe(
    model: Rebel,
    dataset: Dataset,
    split: Split,
    indices: NDArray[np.int64],
    compute: Compute,
    generator: torch.Generator | None = None,
) -> Evidence:
    """Ask the model about the images `indices` of a split.

    With a generator the code is a sample of the posterior, else its mean. The model is in evaluation mode on the device
    of `compute`; what it says comes back on the CPU.
    """
    local, remote = [torch.zeros(0, len(dataset.classes))], [torch.zeros(0, len(dataset.classes))]
    for batch, _ in evaluation_batches(dataset, split, indices):
        with torch.inference_mode():
            with compute.autocast():
                posterior = model.head1(batch.to(compute.device))
                code = posterior.mu if generator is None else model.draw(posterior, generator)
                remote.append(model.remote_logits(model.code(code)).cpu())
            local.append(model.early.class_scores(code.flatten(1)).cpu())
    return Evidence(indices, split.labels[indices], torch.cat(local), torch.cat(remote))


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
