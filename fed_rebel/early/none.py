"""No early classifier: every query is sent, as in Head Network Distillation (Matsubara et al. 2020)."""

import torch
from torch import Tensor

from fed_rebel.early.classifier import Spec
from fed_rebel.early.untrained import UntrainedClassifier


class NoEarly(UntrainedClassifier):
    """Knows nothing and answers nothing: all classes are as likely."""

    answers = False

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.dimensions, self._classes = spec.code, spec.classes

    def _class_scores(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z), self._classes, device=z.device)
