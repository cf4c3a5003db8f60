"""Early classifiers without parameters: training passes them by."""

import torch
from torch import Tensor

from fed_rebel.early.classifier import EarlyClassifier


class UntrainedClassifier(EarlyClassifier):
    """Has nothing to learn, so no losses, and takes no prior: what it is fitted to, if anything, is its client's."""

    def loss(self, z: Tensor, labels: Tensor, present: Tensor | None = None) -> Tensor:
        """Nothing to learn: 0."""
        return z.new_zeros(())

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32

    def _kl(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> Tensor:
        return mu.new_zeros(len(labels))

    def _add_to_log_joint(self, log_shares: Tensor) -> None:
        """The client's label shares are in what it was fitted to."""
