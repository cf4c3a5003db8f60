"""The linear early classifier."""

import torch
from torch import Tensor, nn

from fed_rebel.early.classifier import EarlyClassifier, Spec


class Linear(EarlyClassifier):
    """A linear layer with softmax on the code itself (no projection, no components); starts at zero.

    It is a mixture with one component a class and a shared covariance: with Sigma = I, mu_c = w_c and
    log pi_c = b_c + |w_c|^2 / 2, log pi_c + log N(z; mu_c, I) is w_c . z + b_c up to a constant in c. So Eq.
    3 is defined for it too.
    """

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.dimensions = spec.code
        self.weight = nn.Parameter(torch.zeros(spec.classes, spec.code))
        self.bias = nn.Parameter(torch.zeros(spec.classes))

    def _class_scores(self, z: Tensor) -> Tensor:
        return nn.functional.linear(z, self.weight, self.bias)

    def _kl(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> Tensor:
        means = self.weight.index_select(0, labels)
        return 0.5 * (log_var.exp() - log_var - 1 + (mu - means).square()).sum(1)

    def _add_to_log_joint(self, log_shares: Tensor) -> None:
        self.bias.add_(log_shares)
