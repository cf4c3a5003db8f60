"""The one interface of the early classifiers: sizes, answers, priors, absent classes, the linear one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from fed_rebel.early import KINDS, EarlyClassifier, answer, build

EVERY = [("gmc", "covariance"), ("gmc", "precision"), ("gmc-diag", "covariance"), ("linear", "covariance")]


def small(kind: str, parameterisation: str = "covariance", *, seed: int = 0) -> EarlyClassifier:
    early = build(
        kind,
        classes=4,
        seed=seed,
        code=12,
        components=2,
        projection=6,
        parameterisation=parameterisation,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in early.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return early


def codes(rows: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "parameterisation", "count"),
    [
        ("gmc", "covariance", 75_864_000),
        ("gmc", "precision", 75_864_000),
        ("gmc-diag", "covariance", 695_200),
        ("linear", "covariance", 86_800),
    ],
)
def test_parameter_counts_are_the_papers(kind, parameterisation, count):
    with torch.device("meta"):
        early = build(kind, classes=100, seed=0, parameterisation=parameterisation)
    assert sum(p.numel() for p in early.parameters()) == count
    assert sum(t.numel() for t in early.state_dict().values()) == count


@pytest.mark.parametrize(("kind", "parameterisation"), EVERY)
def test_the_start_depends_on_the_seed_alone(kind, parameterisation):
    one, other = (build(kind, classes=3, seed=7, code=9, projection=4, parameterisation=parameterisation) for _ in "12")
    z = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    torch.rand(3)  # the global generator must not matter
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(one.class_scores(z), other.class_scores(z))


@pytest.mark.parametrize(("kind", "parameterisation"), EVERY)
def test_every_parameter_has_the_class_first(kind, parameterisation):
    assert {len(p) for p in small(kind, parameterisation).parameters()} == {4}


@pytest.mark.parametrize(("kind", "parameterisation"), EVERY)
def test_a_prior_is_bayes_rule_on_the_log_joint(kind, parameterisation):
    early, z = small(kind, parameterisation), codes(6)
    shares = torch.tensor([0.7, 0.2, 0.0999, 1e-4])
    expected = (early.class_scores(z) + shares.log()).log_softmax(1)
    early.apply_prior(shares)
    torch.testing.assert_close(early.log_probabilities(z), expected)


@pytest.mark.parametrize(("kind", "parameterisation"), EVERY)
@pytest.mark.parametrize("share", [0.0, -0.1, float("nan"), float("inf")])
def test_a_prior_must_be_positive(kind, parameterisation, share):
    early = small(kind, parameterisation)
    with pytest.raises(ValueError, match="must be positive"):
        early.apply_prior(torch.tensor([0.5, share, 0.2, 0.3]))


@pytest.mark.parametrize(("kind", "parameterisation"), EVERY)
def test_absent_classes_are_left_out_of_the_denominator(kind, parameterisation):
    early, z = small(kind, parameterisation), codes(6)
    present = torch.tensor([True, False, True, False])
    result = early.log_probabilities(z, present)
    torch.testing.assert_close(result[:, present], early.class_scores(z)[:, present].log_softmax(1))
    assert (result[:, ~present] == -torch.inf).all()
    result[:, 0].sum().backward()
    for parameter in early.parameters():
        assert parameter.grad.isfinite().all()
        assert (parameter.grad[~present] == 0).all() or parameter is getattr(early, "log_weights", None)


def test_some_class_must_be_present():
    with pytest.raises(ValueError, match="no class is present"):
        small("linear").log_probabilities(codes(2), torch.zeros(4, dtype=torch.bool))


def test_linear_is_a_mixture_of_one_unit_gaussian_a_class():
    linear = small("linear")
    gmc = build("gmc-diag", classes=4, seed=0, code=12, components=1, projection=0)
    with torch.no_grad():
        gmc.means.copy_(linear.weight[:, None])
        gmc.scale.zero_()
        gmc.log_weights.copy_((linear.bias + linear.weight.square().sum(1) / 2)[:, None])
    mu, log_var, labels = codes(5), codes(5, seed=2), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(linear.log_probabilities(mu), gmc.log_probabilities(mu), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(linear.kl(mu, log_var, labels), gmc.kl(mu, log_var, labels))


rows = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=1, max_size=6)


@given(rows)
@settings(max_examples=60)
def test_an_answer_is_the_most_probable_class_with_its_probability_and_log_odds(values):
    said = answer(torch.tensor(values, dtype=torch.float32))
    joint = np.array(values, dtype=np.float64)
    for row, label, confidence, score in zip(joint, said.label, said.confidence, said.score, strict=True):
        assert row[label] == row.max()
        assert 0 <= confidence <= 1
        assert confidence.item() == pytest.approx(np.exp(row[label] - logsumexp(row)), abs=1e-3)
        log_odds = row[label] - logsumexp(np.delete(row, label))
        assert score.item() == pytest.approx(log_odds, rel=1e-5, abs=2e-3)
    assert said.label.dtype == torch.int64
    assert said.score.dtype == said.confidence.dtype == torch.float32


def test_scores_keep_the_order_that_saturated_confidences_lose():
    margins = torch.tensor([20.0, 50.0, 500.0, 5e5, 5e30])
    said = answer(torch.stack([margins, torch.zeros(5), torch.zeros(5)], dim=1))
    assert (said.confidence == 1).all()
    assert (said.score.diff() > 0).all()


def test_a_score_is_finite_even_without_a_rival():
    said = answer(torch.tensor([[-3.0, -torch.inf, -torch.inf]]))
    assert said.label.item() == 0
    assert said.confidence.item() == 1
    assert said.score.isfinite().all()
    assert not (said.score >= torch.inf).any()  # a threshold of inf: never


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gmm"}, r"early\.kind = 'gmm': must be one of gmc, gmc-diag, linear"),
        ({"components": 0}, "components = 0"),
        ({"classes": 0}, "classes = 0"),
        ({"projection": -1}, r"early\.projection = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"parameterisation": "cholesky"}, r"early\.parameterisation = 'cholesky'.*covariance, precision"),
        ({"posterior": "dense"}, r"early\.posterior = 'dense'.*diagonal, full"),
    ],
)
def test_what_is_not_allowed_is_named(change, message):
    with pytest.raises(ValueError, match=message) as error:
        build(**({"kind": "gmc-diag", "classes": 4, "seed": 0} | change))
    assert "\n" not in str(error.value)


def test_the_registry_holds_the_kinds_of_the_design():
    assert set(KINDS) == {"gmc", "gmc-diag", "linear", "kmeans", "knn", "none"}
