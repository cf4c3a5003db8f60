"""The Gaussian mixtures against the products that they cannot do without, and torch.distributions."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from benchmarks.table import Row, faster, times
from benchmarks.timing import in_turn, threads
from fed_rebel import early
from fed_rebel.early import GaussianMixture
from fed_rebel.early.classifier import Parameterisation

CODE, BATCH = 867, 64


def rows(quick: bool) -> list[Row]:
    """Inference and a training step of each form, on one thread."""
    classes, components, dimensions, repeats = (10, 2, 64, 1) if quick else (100, 8, 434, 3)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(BATCH, CODE, generator=generator)
    labels = torch.randint(classes, (BATCH,), generator=generator)
    gaussians = classes * components
    size = f"{gaussians} components, {dimensions} dimensions, batch {BATCH}"
    y, matrix = torch.randn(BATCH, dimensions), torch.randn(dimensions, gaussians * dimensions)
    covariances = torch.eye(dimensions).expand(gaussians, -1, -1) * 1.09

    def build(kind: str, parameterisation: Parameterisation = "covariance") -> GaussianMixture:
        built = early.build(
            kind,
            classes=classes,
            seed=0,
            components=components,
            projection=dimensions,
            parameterisation=parameterisation,
        )
        assert isinstance(built, GaussianMixture)
        return built

    def product() -> Tensor:
        return y @ matrix

    def step_of_products() -> object:
        return [*(product() for _ in range(3)), torch.linalg.cholesky(covariances)]

    found = []
    with threads(1):
        full, precision = build("gmc"), build("gmc", "precision")
        one_product, step = "the product [B, d] x [d, components * d]", "three such products and a batched Cholesky"
        for name, gmc, goal in (("GMC full", full, times(1.5)), ("GMC full, precision", precision, None)):
            took, bare = in_turn(_inference(gmc, z), product, repeats)
            found.append(Row(f"{name}, inference, {size}", one_product, goal, took, bare))
        for name, gmc, goal in (("GMC full", full, 4.0), ("GMC full, precision", precision, 1.5)):
            took, bare = in_turn(_training(gmc, z, labels), step_of_products, repeats)
            found.append(Row(f"{name}, training step, {size}", step, times(goal), took, bare))
        del full, precision
        diagonal = build("gmc-diag")
        plain = _MixtureSameFamily(diagonal)
        _check_same(diagonal, plain, z)
        against = "torch.distributions.MixtureSameFamily on the same numbers"
        for name, ours, theirs in (
            ("inference", _inference(diagonal, z), _inference_of(plain, z)),
            ("training step", _training(diagonal, z, labels), _training_of(plain, z, labels)),
        ):
            took, other = in_turn(ours, theirs, repeats + 2)
            found.append(Row(f"GMC diagonal, {name}, {size}", against, faster(10), took, other))
    return found


def _inference(gmc: GaussianMixture, z: Tensor) -> Callable[[], Tensor]:
    @torch.inference_mode()
    def scores() -> Tensor:
        return gmc.class_scores(z)

    return scores


def _training(gmc: GaussianMixture, z: Tensor, labels: Tensor) -> Callable[[], None]:
    """Eq. 3 and Eq. 4, their gradients, and a step that changes the covariances, which so have to be factored anew."""
    optimiser = torch.optim.SGD(gmc.parameters(), 1e-6)
    log_var = torch.full_like(z, -6.0)

    def step() -> None:
        optimiser.zero_grad()
        (gmc.loss(z, labels) + 1e-4 * gmc.kl(z, log_var, labels).mean()).backward()
        optimiser.step()

    return step


class _MixtureSameFamily:
    """The same mixtures as PyTorch has them: of each class its own, of Gaussians that are independent by dimension."""

    def __init__(self, gmc: GaussianMixture) -> None:
        self.gmc, self.parameters = gmc, [p.detach().clone().requires_grad_() for p in _numbers(gmc)]

    def scores(self, z: Tensor) -> Tensor:
        """[B, C]"""
        means, scale, log_weights = self.parameters
        gaussians = Independent(Normal(means, (scale.square() + 1).sqrt()), 1)
        mixtures = MixtureSameFamily(Categorical(logits=log_weights), gaussians)
        # Categorical makes each class's weights sum to 1: what a class weighs in all comes beside.
        of_class = log_weights.logsumexp(1) - log_weights.flatten().logsumexp(0)
        scores: Tensor = mixtures.log_prob(self.gmc.project(z)[:, None]) + of_class
        return scores


def _numbers(gmc: GaussianMixture) -> list[Tensor]:
    return [gmc.means, gmc.scale, gmc.log_weights]


def _inference_of(plain: _MixtureSameFamily, z: Tensor) -> Callable[[], Tensor]:
    @torch.inference_mode()
    def scores() -> Tensor:
        return plain.scores(z)

    return scores


def _training_of(plain: _MixtureSameFamily, z: Tensor, labels: Tensor) -> Callable[[], None]:
    """Without Eq. 3, for which torch.distributions has nothing."""
    optimiser = torch.optim.SGD(plain.parameters, 1e-6)

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(plain.scores(z), labels).backward()
        optimiser.step()

    return step


def _check_same(gmc: GaussianMixture, plain: _MixtureSameFamily, z: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(gmc.class_scores(z), plain.scores(z), rtol=1e-4, atol=1e-2)
