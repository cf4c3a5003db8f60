"""The mixtures' log-densities (Eq. 6) and divergences (Eq. 3) against slow plain derivations in double."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from fed_rebel.early import answer, build
from fed_rebel.early.gmc_diagonal import DiagonalEnergy, GMCDiagonal
from fed_rebel.early.gmc_full import GaussianEnergy, GMCFull, invert
from fed_rebel.early.gmc_precision import GMCPrecision, PrecisionEnergy
from fed_rebel.early.mixture import GaussianMixture
from fed_rebel.early.triangular import Triangles, diagonal_places

KINDS = [("gmc", "covariance"), ("gmc", "precision"), ("gmc-diag", "covariance")]
CLASSES, COMPONENTS, CODE = 3, 2, 10


def mixture(
    kind: str,
    parameterisation: str,
    *,
    classes: int = CLASSES,
    components: int = COMPONENTS,
    code: int = CODE,
    projection: int = 6,
    posterior: str = "diagonal",
    seed: int = 0,
) -> GaussianMixture:
    """A mixture with nothing special about its parameters: means, scales and weights are all random."""
    gmc = build(
        kind,
        classes=classes,
        seed=seed,
        code=code,
        components=components,
        projection=projection,
        parameterisation=parameterisation,
        posterior=posterior,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        gmc.means.normal_(generator=generator)
        gmc.log_weights.normal_(generator=generator)
        gmc.scale.add_(torch.randn(gmc.scale.shape, generator=generator) / np.sqrt(gmc.dimensions))
    return gmc


def codes(rows: int, size: int = CODE, seed: int = 1) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def unpacked(packed: np.ndarray, d: int) -> np.ndarray:
    """A lower triangle from its rectangular full packed form, number by number."""
    half, even = (d + 1) // 2, 1 - d % 2
    lower = np.zeros((d, d))
    for place, value in enumerate(packed):
        row, column = divmod(place, half)
        if column <= row - even:
            lower[row - even, column] = value
        else:
            lower[half + column - 1 + even, half + row] = value
    return lower


def dense(lower: Triangles) -> Tensor:
    """[K, d, d]"""
    above = (0, 0, lower.left.shape[2], 0)
    return torch.cat([lower.left, torch.nn.functional.pad(lower.right.mT, above)], dim=2)


def covariance(gmc: GaussianMixture, c: int, k: int) -> np.ndarray:
    """Sigma_ck as the design defines it."""
    scale, d = array(gmc.scale[c, k]), gmc.dimensions
    if isinstance(gmc, GMCDiagonal):
        return np.diag(scale**2 + 1)
    lower = unpacked(scale, d)
    if isinstance(gmc, GMCFull):
        return lower.T @ lower + np.eye(d)
    assert isinstance(gmc, GMCPrecision)
    lower[np.diag_indices(d)] = np.exp(np.diag(lower))
    return np.linalg.inv(lower.T @ lower)


def matrix(gmc: GaussianMixture) -> np.ndarray:
    return np.eye(gmc.dimensions) if gmc.projection is None else array(gmc.projection.matrix)


def slow_log_joint(gmc: GaussianMixture, z: Tensor) -> np.ndarray:
    y = array(z) @ matrix(gmc).T
    weights = array(gmc.log_weights)
    log_pi = weights - logsumexp(weights)
    scores = np.empty((len(y), len(weights)))
    for c in range(len(weights)):
        terms = [
            log_pi[c, k] + multivariate_normal(array(gmc.means[c, k]), covariance(gmc, c, k)).logpdf(y)
            for k in range(weights.shape[1])
        ]
        scores[:, c] = logsumexp(np.array(terms).reshape(-1, len(y)), axis=0)
    return scores


def slow_kl(gmc: GaussianMixture, mu: Tensor, log_var: Tensor, labels: Tensor) -> np.ndarray:
    """Eq. 3, one image and one component at a time."""
    r = matrix(gmc)
    result = []
    for m, v, c in zip(array(mu) @ r.T, np.exp(array(log_var)), labels.tolist(), strict=True):
        s = r @ np.diag(v) @ r.T
        if gmc.posterior_kind == "diagonal":
            s = np.diag(np.diag(s))
        divergences = []
        for k in range(gmc.means.shape[1]):
            sigma, residual = covariance(gmc, c, k), m - array(gmc.means[c, k])
            log_ratio = np.linalg.slogdet(sigma)[1] - np.linalg.slogdet(s)[1]
            quadratic = residual @ np.linalg.solve(sigma, residual)
            divergences.append(0.5 * (log_ratio - len(m) + quadratic + np.trace(np.linalg.solve(sigma, s))))
        result.append(min(divergences))
    return np.array(result)


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
@pytest.mark.parametrize("projection", [6, 0])
def test_class_scores_are_scipys_log_joint(kind, parameterisation, projection):
    gmc = mixture(kind, parameterisation, projection=projection)
    z = codes(7)
    np.testing.assert_allclose(array(gmc.class_scores(z)), slow_log_joint(gmc, z), atol=1e-4)


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
def test_probabilities_are_eq_6(kind, parameterisation):
    gmc = mixture(kind, parameterisation)
    z = codes(7)
    joint = np.exp(slow_log_joint(gmc, z))
    expected = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(array(gmc.log_probabilities(z))), expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("projection", [6, 0])
def test_kl_is_eq_3_to_the_nearest_component_of_the_true_class(kind, parameterisation, posterior, projection):
    gmc = mixture(kind, parameterisation, projection=projection, posterior=posterior)
    mu, log_var, labels = codes(9), codes(9, seed=2), torch.arange(9) % CLASSES
    expected = slow_kl(gmc, mu, log_var, labels)
    np.testing.assert_allclose(array(gmc.kl(mu, log_var, labels)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
def test_kl_is_a_monte_carlo_estimate_of_it(kind, parameterisation):
    gmc = mixture(kind, parameterisation, components=1, posterior="full")
    rng = np.random.default_rng(0)
    mu, log_var, label = codes(1), codes(1, seed=2), torch.tensor([1])
    z = array(mu) + np.exp(0.5 * array(log_var)) * rng.standard_normal((100_000, CODE))
    r = matrix(gmc)
    posterior = multivariate_normal((r @ array(mu)[0]), r @ np.diag(np.exp(array(log_var)[0])) @ r.T)
    component = multivariate_normal(array(gmc.means[1, 0]), covariance(gmc, 1, 0))
    samples = posterior.logpdf(z @ r.T) - component.logpdf(z @ r.T)
    error = samples.std() / np.sqrt(len(samples))
    assert gmc.kl(mu, log_var, label).item() == pytest.approx(samples.mean(), abs=4 * error)


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
def test_kl_is_zero_where_the_posterior_is_the_component(kind, parameterisation):
    gmc = build(kind, classes=2, seed=0, code=5, components=3, projection=None, parameterisation=parameterisation)
    mu = gmc.means[1, :1].detach()
    log_var = torch.full_like(mu, np.log(1 + 0.3**2))
    assert gmc.kl(mu, log_var, torch.tensor([1])).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_single_precision_holds_in_434_dimensions(kind, parameterisation, offset):
    gmc = mixture(kind, parameterisation, classes=4, code=434, projection=0)
    with torch.no_grad():
        gmc.means += offset
    z = codes(5, 434) + offset
    # The precision's densities are larger: its Sigma has no lower bound.
    tolerance = 1e-3 if parameterisation == "covariance" else 1e-2
    np.testing.assert_allclose(array(gmc.class_scores(z)), slow_log_joint(gmc, z), atol=tolerance)


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
def test_far_away_codes_stay_finite_in_value_and_gradient(kind, parameterisation):
    gmc = mixture(kind, parameterisation, classes=4, code=867, projection=434)
    z = (1e3 * codes(5, 867)).requires_grad_()
    scores = gmc.class_scores(z)
    np.testing.assert_allclose(array(scores), slow_log_joint(gmc, z), rtol=1e-5)
    log_probabilities = gmc.log_probabilities(z)
    assert log_probabilities.isfinite().all()
    said = answer(scores.detach())
    assert said.score.isfinite().all()
    (log_probabilities[:, 0].sum() + gmc.kl(z, torch.zeros_like(z), torch.arange(5) % 4).sum()).backward()
    assert all(p.grad.isfinite().all() for p in [z, *gmc.parameters()])


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
def test_scores_order_answers_whose_confidence_saturates(kind, parameterisation):
    gmc = mixture(kind, parameterisation, classes=4, code=434, projection=0)
    # From the first class's own mean straight away from the others: surer and surer.
    away = gmc.means[0, 0].detach() - gmc.means.detach().mean((0, 1))
    z = gmc.means[0, 0].detach() + torch.linspace(0, 1, 6)[:, None] * away
    said = answer(gmc.class_scores(z).detach())
    joint = slow_log_joint(gmc, z)
    assert (said.confidence == 1).all()
    assert (said.label == 0).all()
    assert said.score.isfinite().all()
    assert len(said.score.unique()) == len(z)
    np.testing.assert_array_equal(
        np.argsort(array(said.score)), np.argsort(joint[:, 0] - logsumexp(joint[:, 1:], axis=1))
    )


@pytest.mark.parametrize("spread_shape", [None, (3,), (3, 3)])
@pytest.mark.parametrize("parameterisation", ["covariance", "precision"])
def test_the_written_out_gradient_passes_gradcheck(spread_shape, parameterisation):
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)

    y, means, scale = random(5, 3), random(3, 2, 3), random(3, 2, 6)
    groups = {0: torch.tensor([1, 4]), 2: torch.tensor([0, 1, 3])}

    def energy(y: Tensor, factor: Tensor | None, means: Tensor, scale: Tensor) -> Tensor:
        spread = factor
        if factor is not None:
            spread = factor.square() + 0.1 if factor.ndim == 2 else factor @ factor.mT
        if parameterisation == "precision":
            return PrecisionEnergy.apply(y, spread, means, scale, groups)
        return GaussianEnergy.apply(y, spread, means, scale, *invert(scale, 3, at_once=1), groups)

    factor = None if spread_shape is None else random(5, *spread_shape)
    assert torch.autograd.gradcheck(energy, (y, factor, means, scale))


def test_the_written_out_gradient_of_diagonal_gaussians_passes_gradcheck():
    y, means, scale = (codes(n, 3, seed=n).double().requires_grad_() for n in (5, 6, 7))
    assert torch.autograd.gradcheck(DiagonalEnergy.apply, (y, means, scale[:6]))


@pytest.mark.parametrize("at_once", [2, 3])
def test_inverses_do_not_depend_on_how_many_classes_are_inverted_at_once(at_once):
    scale = codes(6, 10).double().view(3, 2, 10)
    for one_by_one, together in zip(invert(scale, 4, at_once=1), invert(scale, 4, at_once), strict=True):
        torch.testing.assert_close(one_by_one, together, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 7, 8])
def test_packing_keeps_every_number_of_a_triangle(dimensions):
    square, half = codes(2 * dimensions, dimensions).view(2, dimensions, dimensions), (dimensions + 1) // 2
    packed = Triangles(square[:, :, :half], square[:, half:, half:].mT).pack()
    assert packed.shape == (2, dimensions * (dimensions + 1) // 2)
    torch.testing.assert_close(dense(Triangles.unpack(packed, dimensions)), square.tril(), rtol=0, atol=0)
    np.testing.assert_array_equal(unpacked(array(packed[1]), dimensions), np.tril(array(square[1])))
    torch.testing.assert_close(packed[:, diagonal_places(dimensions)], square.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 7, 8])
def test_products_of_blocks_are_those_of_the_triangles(dimensions):
    lower = Triangles.unpack(codes(2, dimensions * (dimensions + 1) // 2).double(), dimensions)
    plain, x = dense(lower), codes(2 * 5, dimensions).double().view(2, 5, dimensions)
    symmetric = x.mT @ x
    torch.testing.assert_close(lower.times(x), x @ plain.mT)
    torch.testing.assert_close(lower.transposed_times(x), x @ plain)
    torch.testing.assert_close(lower.gram(), plain.mT @ plain)
    torch.testing.assert_close(lower.gram_diagonal(), (plain.mT @ plain).diagonal(dim1=1, dim2=2))
    product = Triangles.unpack(lower.times_symmetric(symmetric).pack(), dimensions)
    torch.testing.assert_close(dense(product), (plain @ symmetric).tril())


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_the_full_mixtures_gradients_are_those_of_a_naive_implementation(posterior):
    gmc = mixture("gmc", "covariance", posterior=posterior).double()
    z, log_var = codes(8).double().requires_grad_(), codes(8, seed=2).double().requires_grad_()
    labels = torch.tensor([2, 0, 0, 2, 2, 0, 2, 2])
    inputs = [z, log_var, *gmc.parameters()]
    loss = gmc.log_probabilities(z).gather(1, labels[:, None]).mean() + gmc.kl(z, log_var, labels).mean()
    gradients = torch.autograd.grad(loss, inputs)

    d, r = gmc.dimensions, gmc.projection.matrix
    lower = dense(Triangles.unpack(gmc.scale.flatten(0, 1), d)).view(CLASSES, COMPONENTS, d, d)
    sigma = lower.mT @ lower + torch.eye(d)
    density = torch.distributions.MultivariateNormal(gmc.means, sigma).log_prob((z @ r.T)[:, None, None])
    log_pi = gmc.log_weights.flatten().log_softmax(0).view(CLASSES, COMPONENTS)
    naive = (density + log_pi).logsumexp(2).log_softmax(1).gather(1, labels[:, None]).mean()
    spread = r @ log_var.exp().diag_embed() @ r.T
    if posterior == "diagonal":
        spread = spread.diagonal(dim1=1, dim2=2).diag_embed()
    divergence = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal((z @ r.T)[:, None], spread[:, None]),
        torch.distributions.MultivariateNormal(gmc.means[labels], sigma[labels]),
    )
    naive = naive + divergence.min(1).values.mean()

    assert loss.item() == pytest.approx(naive.item(), abs=1e-9)
    for ours, theirs in zip(gradients, torch.autograd.grad(naive, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "write",
    [
        lambda gmc: _step(gmc, torch.optim.SGD(gmc.parameters(), 0.1)),
        lambda gmc: _step(gmc, torch.optim.Adam(gmc.parameters(), 0.1)),
        lambda gmc: _step(gmc, torch.optim.Adam(gmc.parameters(), 0.1, fused=True)),
        lambda gmc: gmc.load_state_dict({k: 2 * v for k, v in gmc.state_dict().items()}),
        lambda gmc: gmc.double(),
    ],
    ids=["SGD", "Adam", "fused Adam", "load", "double"],
)
def test_the_full_mixtures_kept_inverses_follow_its_parameters(write):
    gmc = mixture("gmc", "covariance")
    z = codes(4)
    with torch.inference_mode():  # an evaluation before must not spoil the training after
        before = gmc.class_scores(z)
    twin = copy.deepcopy(gmc)
    write(gmc)
    np.testing.assert_allclose(array(gmc.class_scores(z)), slow_log_joint(gmc, z), atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(twin.class_scores(z), before.clone())


def _step(gmc: GaussianMixture, optimiser: torch.optim.Optimizer) -> None:
    gmc.class_scores(codes(4)).logsumexp(1).sum().neg().backward()
    optimiser.step()


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
def test_autocast_changes_nothing(kind, parameterisation):
    gmc = mixture(kind, parameterisation)
    z, labels = codes(6), torch.arange(6) % CLASSES

    def loss() -> Tensor:
        return gmc.log_probabilities(z)[:, 0].sum() + gmc.kl(z, z, labels).sum()

    with torch.autocast("cpu", torch.bfloat16):
        cast = loss()
    assert torch.equal(loss(), cast)
    plain, cast = (torch.autograd.grad(value, gmc.means)[0] for value in (loss(), cast))
    assert torch.equal(plain, cast)


def test_two_threads_give_the_same_gradient_to_the_bit_each_time():
    # Large enough for torch to share the work between them.
    gmc = mixture("gmc-diag", "covariance", classes=2, components=8, code=80, projection=0)
    mu, labels = codes(64, 80), torch.arange(64) % 2
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = [torch.autograd.grad(gmc.kl(mu, mu, labels).sum(), gmc.means)[0] for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradients[0], other) for other in gradients)


def test_a_collapsed_code_still_has_a_divergence():
    gmc = mixture("gmc-diag", "covariance", code=60, projection=40, posterior="full")
    log_var = torch.where(torch.arange(60) < 45, -17.0, 0.0).expand(2, -1)
    mu, labels = codes(2, 60), torch.tensor([0, 1])
    expected = slow_kl(gmc, mu, log_var, labels)
    np.testing.assert_allclose(array(gmc.kl(mu, log_var, labels)), expected, rtol=2e-3)
