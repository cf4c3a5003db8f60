"""What the Gaussian mixture classifiers (GMC) share: Eq. 6 and Eq. 3 over their Gaussians' energies.

The energy of a Gaussian at a distribution with mean y and covariance S is

    log |Sigma| + (y - mu)^T Sigma^-1 (y - mu) + tr(Sigma^-1 S),

which with S = 0 is the log-density of y, and otherwise the divergence of N(y, S) from the Gaussian, up to
sign, scale and constants.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fed_rebel.early.classifier import EarlyClassifier, Spec
from fed_rebel.early.projection import AchlioptasProjection

MIN_SCALE = 0.1
"""Where Sigma = L^T L + I, no diagonal of L starts below this: at 0 the gradient of L^T L vanishes."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """The codes' posterior as the mixture sees it, behind the projection."""

    mean: Tensor
    """[B, d]"""
    spread: Tensor
    """The covariance: its diagonal [B, d], or the whole of it [B, d, d]."""
    log_det: Tensor
    """[B]: log-determinant of that covariance."""


class GaussianMixture(EarlyClassifier):
    """K Gaussians a class; their weights pi are one softmax over all C*K of them (Eq. 2, 6; Sec. V)."""

    def __init__(self, spec: Spec, scale_size: int) -> None:
        """Make the parameters, all zero: ``start.py`` starts them. ``scale_size`` is the numbers in one L."""
        super().__init__()
        self.dimensions = d = spec.dimensions
        self.posterior_kind = spec.posterior
        self.projection = AchlioptasProjection(spec.code, d, spec.seed) if spec.projection else None
        self.means = nn.Parameter(torch.zeros(spec.classes, spec.components, d))
        self.scale = nn.Parameter(torch.zeros(spec.classes, spec.components, scale_size))
        self.log_weights = nn.Parameter(torch.zeros(spec.classes, spec.components))

    @abstractmethod
    def _energies(self, y: Tensor) -> Tensor:
        """Energy of every Gaussian at the points y: [B, d] to [B, C, K]."""

    @abstractmethod
    def _nearest_energy(self, mean: Tensor, spread: Tensor, labels: Tensor) -> Tensor:
        """Energy of the nearest of the labels' own Gaussians at distributions.

        Shapes: mean [B, d], spread [B, d] or [B, d, d], labels int64 [B] to [B].
        """

    @abstractmethod
    def _set_variances(self, variances: Tensor) -> None:
        """Set every Sigma, in place, to a diagonal [C, K, d], or to the nearest that the parameters allow."""

    @torch.no_grad()
    def place(self, means: Tensor, variances: Tensor, weights: Tensor) -> None:
        """Put the Gaussians in place: means and variances [C, K, d], positive weights pi [C, K]."""
        self.means.copy_(means)
        self._set_variances(variances.to(self.scale))
        self.log_weights.copy_(weights.log())

    def project(self, z: Tensor) -> Tensor:
        """Codes [B, code] as the mixture sees them [B, d]."""
        return z if self.projection is None else self.projection(z)

    def posterior(self, mu: Tensor, log_var: Tensor) -> Posterior:
        """N(R mu, R diag(sigma) R^T) for the projection R: the whole covariance, or its diagonal."""
        if self.projection is None:
            return Posterior(mu, log_var.exp(), log_var.sum(1))
        mean, variances = self.projection(mu), log_var.exp()
        if self.posterior_kind == "diagonal":
            spread = self.projection.variances(variances)
            return Posterior(mean, spread, spread.log().sum(1))
        # In double: where half of the code's variances have collapsed, single precision finds it singular.
        covariance = self.projection.covariances(variances.double())
        log_det = 2 * torch.linalg.cholesky(covariance).diagonal(dim1=1, dim2=2).log().sum(1)
        return Posterior(mean, covariance.to(mean.dtype), log_det.to(mean.dtype))

    def _class_scores(self, z: Tensor) -> Tensor:
        log_pi = self.log_weights.flatten().log_softmax(0).view_as(self.log_weights)
        log_density = -0.5 * (self._energies(self.project(z)) + self.dimensions * math.log(2 * math.pi))
        return (log_pi + log_density).logsumexp(2)

    def _kl(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> Tensor:
        posterior = self.posterior(mu, log_var)
        nearest = self._nearest_energy(posterior.mean, posterior.spread, labels)
        return 0.5 * (nearest - posterior.log_det - self.dimensions)

    def _add_to_log_joint(self, log_shares: Tensor) -> None:
        self.log_weights.add_(log_shares[:, None])
