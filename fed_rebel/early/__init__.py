"""Early classifiers: what labels a code on the device, and regularises it in training."""

from collections.abc import Callable

from fed_rebel.early.classifier import Answer, EarlyClassifier, Parameterisation, PosteriorKind, Spec, answer
from fed_rebel.early.fitted import FittedClassifier
from fed_rebel.early.gmc_diagonal import GMCDiagonal
from fed_rebel.early.gmc_full import GMCFull
from fed_rebel.early.gmc_precision import GMCPrecision
from fed_rebel.early.kmeans import KMeans
from fed_rebel.early.knn import KNN
from fed_rebel.early.linear import Linear
from fed_rebel.early.mixture import GaussianMixture
from fed_rebel.early.none import NoEarly
from fed_rebel.early.start import start_random

__all__ = [
    "FITTED",
    "KINDS",
    "Answer",
    "EarlyClassifier",
    "FittedClassifier",
    "GaussianMixture",
    "answer",
    "build",
    "start_random",
]


def _gmc(spec: Spec) -> EarlyClassifier:
    return GMCPrecision(spec) if spec.parameterisation == "precision" else GMCFull(spec)


KINDS: dict[str, Callable[[Spec], EarlyClassifier]] = {
    "gmc": _gmc,
    "gmc-diag": GMCDiagonal,
    "linear": Linear,
    "kmeans": KMeans,
    "knn": KNN,
    "none": NoEarly,
}
"""``early.kind`` to what builds it."""
FITTED = tuple(kind for kind, built in KINDS.items() if getattr(built, "fitted", ()))
"""Kinds that are not trained but fitted to the codes of a trained Head1."""


def build(
    kind: str,
    *,
    classes: int,
    seed: int,
    code: int = 867,
    components: int = 8,
    projection: int | None = 434,
    parameterisation: Parameterisation = "covariance",
    posterior: PosteriorKind = "diagonal",
) -> EarlyClassifier:
    """An early classifier at its start: a function of its arguments alone, so the same on every client.

    ``Spec`` tells what the arguments mean. Projection and posterior are the mixtures', parameterisation the full
    mixture's; components are clusters a class for k-means. Raises ValueError for what is
    not allowed.
    """
    if kind not in KINDS:
        raise ValueError(f"early.kind = {kind!r}: must be one of {', '.join(KINDS)}")
    spec = Spec(classes, seed, code, components, projection, parameterisation, posterior)
    early = KINDS[kind](spec)
    if isinstance(early, GaussianMixture):
        start_random(early, seed)
    return early
