"""What a model says of images: a row each, from which every accuracy and curve follows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fed_rebel.datasets import Dataset, Split
from fed_rebel.early import Answer, answer
from fed_rebel.exits import Stack
from fed_rebel.model.rebel import Rebel
from fed_rebel.training.batches import evaluation_batches
from fed_rebel.training.compute import Compute

Network = Callable[[Tensor], Tensor]
"""Images [B, 3, 32, 32] to logits [B, C]."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What device and server make of N images of a split."""

    image: NDArray[np.int64]
    """[N]: indices into the split."""
    label: NDArray[np.int64]
    """[N]"""
    local: Tensor | None
    """[N, C]: the early classifier's log-joint, up to a constant a row; None where there is no early classifier."""
    remote: Tensor
    """float32 [N, C]: the server's logits."""

    def __getitem__(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Evidence":
        """That of some of the images."""
        chosen = torch.from_numpy(rows)
        local = None if self.local is None else self.local[chosen]
        return Evidence(self.image[rows], self.label[rows], local, self.remote[chosen])

    def rows(self, log_shares: Tensor | None = None, stack: Stack | None = None) -> pd.DataFrame:
        """What the device says, how sure it is, and what the server says.

        Columns `image, label, local_label, confidence, score, remote_label`; with the log of a client's label shares,
        float32 [C], `remote_prior_label`: the server's answer corrected by them; with its stack too,
        `remote_stacked_label`.
        """
        local = Answer.none(len(self.label)) if self.local is None else answer(self.local)
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
        return Stack.fit(self.remote.numpy(), self._opinion, log_shares.numpy(), self.label)

    def _stacked(self, stack: Stack, log_shares: Tensor) -> NDArray[np.int16]:
        return stack.labels(self.remote.numpy(), self._opinion, log_shares.numpy()).astype(np.int16)

    @property
    def _opinion(self) -> NDArray[np.floating]:
        """[N, C]: the early classifier's; where there is none all classes are as likely."""
        return (torch.zeros_like(self.remote) if self.local is None else self.local).numpy()


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
    opinion = torch.cat(local) if model.early.answers else None
    return Evidence(indices, split.labels[indices], opinion, torch.cat(remote))


def observe_network(
    network: Network, dataset: Dataset, split: Split, indices: NDArray[np.int64], compute: Compute
) -> Evidence:
    """Ask a network to which whole images are sent: nothing answers early."""
    logits = [torch.zeros(0, len(dataset.classes))]
    with torch.inference_mode(), compute.autocast():
        for images, _ in evaluation_batches(dataset, split, indices):
            logits.append(network(images.to(compute.device)).float().cpu())
    return Evidence(indices, split.labels[indices], None, torch.cat(logits))


def labels_of(network: Network, dataset: Dataset, split: Split, indices: np.ndarray, compute: Compute) -> np.ndarray:
    """int64 [N]: the class to which a network gives the most."""
    return observe_network(network, dataset, split, indices, compute).remote.argmax(1).numpy()


def accuracy_on_test(network: Network, dataset: Dataset, compute: Compute) -> float:
    """The share of the data set's test images that a network labels rightly."""
    said = labels_of(network, dataset, dataset.test, np.arange(len(dataset.test)), compute)
    return float((said == dataset.test.labels).mean())
