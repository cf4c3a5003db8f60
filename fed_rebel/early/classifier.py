"""The one interface of the early classifiers, and the answer they give on the device."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Parameterisation = Literal["covariance", "precision"]
PosteriorKind = Literal["diagonal", "full"]


@dataclass(frozen=True)
class Spec:
    """What an early classifier is built from. ValueError where a value is out of range."""

    classes: int
    """C, the number of classes, absent ones included."""
    seed: int
    """The run's seed; projection and random start depend on nothing else."""
    code: int = 867
    """Values in a code z."""
    components: int = 8
    """K, Gaussians in each class's mixture."""
    projection: int | None = 434
    """Dimensions after the Achlioptas projection; 0 or None for none."""
    parameterisation: Parameterisation = "covariance"
    """What a full mixture learns: a factor of the covariance or of its inverse."""
    posterior: PosteriorKind = "diagonal"
    """How much of the projected posterior's covariance Eq. 3 sees."""

    def __post_init__(self) -> None:
        for key in ("classes", "code", "components"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} = {getattr(self, key)}: must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed = {self.seed}: must not be negative")
        if (self.projection or 0) < 0:
            raise ValueError(f"early.projection = {self.projection}: must be 0 (none) or more")
        for key, allowed in (("parameterisation", Parameterisation), ("posterior", PosteriorKind)):
            value = getattr(self, key)
            if value not in get_args(allowed):
                raise ValueError(f"early.{key} = {value!r}: must be one of {', '.join(get_args(allowed))}")

    @property
    def dimensions(self) -> int:
        """d, the dimensions a mixture lives in: the projection's, or the code's where there is none."""
        return self.projection or self.code


@dataclass(frozen=True, eq=False)
class Answer:
    """What the early classifier says of each of B queries."""

    label: Tensor
    """int64 [B]: the most probable class; -1 where nothing labels queries early."""
    confidence: Tensor
    """float32 [B] in [0, 1]: that class's probability; 1.0 for many queries in high dimensions."""
    score: Tensor
    """float32 [B], finite: log-odds of the label against all others; still orders where confidence is 1.0."""

    @classmethod
    def none(cls, queries: int) -> "Answer":
        """That of no early classifier: no label, without confidence."""
        return cls(torch.full((queries,), -1), torch.zeros(queries), torch.zeros(queries))


def answer(log_joint: Tensor) -> Answer:
    """Answer from the classes' log-joint [B, C], up to a constant a row; -inf where a class is absent."""
    best, label = log_joint.max(1)
    # The lowest number there is and not -inf, with which the log-sum-exp of exported models errs (onnxruntime 1.32).
    others = log_joint.scatter(1, label[:, None], torch.finfo(log_joint.dtype).min).logsumexp(1)
    # Not from 1 - p, which is 0 where p saturates. Finite also where there is no other class, because a
    # threshold of inf means that nothing is answered locally.
    score = (best - others).clamp(max=torch.finfo(torch.float32).max).float()
    return Answer(label, score.sigmoid(), score)


class EarlyClassifier(nn.Module, ABC):
    """Labels codes on the device; its true class's Gaussians regularise the codes in training.

    Every parameter has the class as its first dimension, so that classes can be averaged one by one.
    """

    dimensions: int
    """Dimensions of the space it works in."""
    answers: bool = True
    """Whether it labels codes. Where nothing does, they need no distribution: in training they are their mean."""
    fitted: tuple[str, ...] = ()
    """Buffers that have as many rows as the data they were fitted to ask for."""

    def class_scores(self, z: Tensor) -> Tensor:
        """Log-joint of each class and the code, log sum_k pi_ck N(z; mu_ck, Sigma_ck), up to a constant in c.

        Shapes: z [B, code] to [B, C]. Computed in the parameters' own precision, also under autocast:
        log-densities are hundreds in size, and bfloat16 would round away what tells the classes apart.
        """
        with torch.autocast(z.device.type, enabled=False):
            return self._class_scores(z.to(self._dtype))

    def log_probabilities(self, z: Tensor, present: Tensor | None = None) -> Tensor:
        """Log of the classes' probabilities gamma (Eq. 6): z [B, code] to [B, C].

        ``present``, bool [C], leaves the classes that a client does not hold out of the denominator: they get
        -inf. Raises ValueError where it leaves none.
        """
        scores = self.class_scores(z)
        if present is not None:
            if not present.any():
                raise ValueError("present: no class is present, at least one must be")
            scores = scores.masked_fill(~present, -torch.inf)
        return scores.log_softmax(1)

    def loss(self, z: Tensor, labels: Tensor, present: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of the labels, int64 [B], at z [B, code] (Eq. 4): a mean in nats, scalar."""
        return nn.functional.nll_loss(self.log_probabilities(z, present), labels)

    def kl(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> Tensor:
        """Divergence of the code's posterior from its class's nearest Gaussian (Eq. 3), in nats.

        KL(N(mu, exp(log_var)) || N(mu_ck, Sigma_ck)), summed over dimensions, the smallest over the K
        components of the true class. Shapes: mu, log_var [B, code], labels int64 [B] to [B].
        """
        with torch.autocast(mu.device.type, enabled=False):
            return self._kl(mu.to(self._dtype), log_var.to(self._dtype), labels)

    @torch.no_grad()
    def apply_prior(self, shares: Tensor) -> None:
        """Multiply the classes' probabilities, in place, by label shares [C], which need not sum to one.

        The closed form of "which classes do I meet?" in the private start: by Bayes' rule the log shares add
        to the log-joint. Raises ValueError where a share is not positive and finite: shares are smoothed.
        """
        bad = ~((shares > 0) & shares.isfinite())
        if bad.any():
            raise ValueError(f"shares: {shares[bad][0].item()} is not allowed, must be positive and finite")
        self._add_to_log_joint(shares.log().to(self._dtype))

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @abstractmethod
    def _class_scores(self, z: Tensor) -> Tensor: ...

    @abstractmethod
    def _kl(self, mu: Tensor, log_var: Tensor, labels: Tensor) -> Tensor: ...

    @abstractmethod
    def _add_to_log_joint(self, log_shares: Tensor) -> None: ...
