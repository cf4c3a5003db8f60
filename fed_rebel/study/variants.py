"""What the study trains: a bottleneck for each early classifier, with and without regularisation, and HND."""

from collections.abc import Iterable
from dataclasses import dataclass

from fed_rebel.settings import Settings

CLASSIFIERS = ("gmc", "gmc-diag", "linear", "kmeans", "knn")
"""The paper's five."""
REGULARISED = ("gmc", "gmc-diag", "linear")
"""Those that Eq. 3 is defined for."""
HND = "none"


@dataclass(frozen=True)
class Variant:
    """One trained model of the study."""

    kind: str
    """`early.kind`."""
    regularised: bool
    seed: int

    @property
    def name(self) -> str:
        """Such as `gmc-diag`, `gmc-diag+reg` and `hnd`, without the seed."""
        return "hnd" if self.kind == HND else self.kind + "+reg" * self.regularised

    def settings(self, study: Settings) -> Settings:
        """The study's settings for this variant: pooled training from scratch, no federation.

        The linear classifier learns at Head1's rate; the mixtures have their own, at which it is worse.
        """
        early = study.early.model_copy(update={"kind": self.kind, "parameterisation": self._parameterisation(study)})
        loss = study.loss.model_copy(update={} if self.regularised else {"regularisation": 0.0})
        early_rate = study.warm_start.learning_rate if self.kind == "linear" else study.warm_start.early_rate
        warm_start = study.warm_start.model_copy(update={"weights": "pooled", "early_rate": early_rate})
        rounds = study.rounds.model_copy(update={"warm_start": 0})
        changes = {"seed": self.seed, "early": early, "loss": loss, "warm_start": warm_start, "rounds": rounds}
        return Settings.model_validate(study.model_copy(update=changes).model_dump())

    def _parameterisation(self, study: Settings) -> str:
        return study.early.parameterisation if self.kind == "gmc" else "covariance"


def variants(classifiers: Iterable[str], seeds: Iterable[int]) -> list[Variant]:
    """Every variant of these classifiers and HND, seed by seed."""
    return [
        Variant(kind, regularised, seed)
        for seed in seeds
        for kind in (*classifiers, HND)
        for regularised in ((False, True) if kind in REGULARISED else (False,))
    ]
