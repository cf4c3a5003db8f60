"""No early classifier: every query is sent, as in Head Network Distillation (Matsubara et al. 2020)."""

import torch
from torch import Tensor

from fed_rebel.early.classifier import Spec
from fed_rebel.early.fitted import FittedClassifier


class NoEarly(FittedClassifier):
    """Knows nothing: all classes are as likely. Nothing labels the code, so it needs no distribution: it is mu."""

    variational = False

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.dimensions, self._classes = spec.code, spec.classes

    def fit(self, z: Tensor, labels: Tensor) -> None:
        """Nothing to fit."""

    def _class_scores(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z), self._classes, device=z.device)
