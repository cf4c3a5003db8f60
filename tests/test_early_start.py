"""How a mixture starts: from random means, or from codes."""

import numpy as np
import pytest
import torch

from fed_rebel.early import build, start_from_codes, start_random

KINDS = [("gmc", "covariance"), ("gmc", "precision"), ("gmc-diag", "covariance")]


def mixture(kind: str, parameterisation: str, projection: int = 0):
    return build(
        kind,
        classes=4,
        seed=0,
        code=20,
        components=3,
        projection=projection,
        parameterisation=parameterisation,
    )


def clustered(per_cluster: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes in three clusters of variance 4 a class, and their labels."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((4, 3, 1, 20))
    codes = centres + 2 * rng.standard_normal((4, 3, per_cluster, 20))
    labels = np.repeat(np.arange(4), 3 * per_cluster)
    return torch.tensor(codes.reshape(-1, 20), dtype=torch.float32), torch.tensor(labels)


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
@pytest.mark.parametrize("projection", [0, 8])
def test_a_start_from_codes_is_k_means_in_each_class(kind, parameterisation, projection):
    gmc = mixture(kind, parameterisation, projection)
    codes, labels = clustered(50)
    start_from_codes(gmc, codes, labels, np.random.default_rng(0))
    points = gmc.project(codes)
    for c in range(4):
        own, means = points[labels == c], gmc.means[c].detach()
        cluster = torch.cdist(own, means).argmin(1)
        for k in range(3):
            torch.testing.assert_close(means[k], own[cluster == k].mean(0), atol=1e-3, rtol=1e-3)
        shares = torch.bincount(cluster, minlength=3) / len(own) / 4
        torch.testing.assert_close(gmc.log_weights[c].detach().exp(), shares)
        # The divergence from a Gaussian of the same mean and the clusters' own variance is nothing.
        if projection == 0:
            variance = (own - means[cluster]).square().sum(0) / (len(own) - 3)
            divergence = gmc.kl(means[:1], variance.log()[None], torch.tensor([c]))
            assert divergence.item() == pytest.approx(0, abs=1e-3)
    assert (gmc.class_scores(codes).argmax(1) == labels).float().mean() > 0.99


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
@pytest.mark.parametrize("projection", [0, 8])
def test_classes_with_few_codes_or_none_start_too(kind, parameterisation, projection):
    gmc = mixture(kind, parameterisation, projection)
    codes, labels = clustered(5)
    few = torch.cat([(labels == 0).nonzero()[:, 0], (labels == 1).nonzero()[:2, 0]])  # 15, 2, 0 and 0 codes
    start_from_codes(gmc, codes[few], labels[few], np.random.default_rng(0))
    assert all(p.isfinite().all() for p in gmc.parameters())
    assert len({tuple(row) for row in gmc.means.detach().flatten(0, 1).tolist()}) == 12
    own = gmc.project(codes[few][-2:])
    nearest = torch.cdist(gmc.means[1].detach(), own).min(1).values
    assert (nearest < 0.3 * torch.cdist(own, gmc.project(codes[:5])).mean()).all()
    assert (gmc.class_scores(codes[few]).argmax(1) == labels[few]).all()
    torch.testing.assert_close(gmc.log_weights.exp().sum(1), torch.full((4,), 0.25))


def test_no_codes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        start_from_codes(
            mixture("gmc-diag", "covariance"),
            torch.empty(0, 20),
            torch.empty(0, dtype=torch.int64),
            np.random.default_rng(0),
        )


def test_a_start_is_a_function_of_codes_and_generator():
    codes, labels = clustered(20)
    starts = []
    for seed in (1, 1, 2):
        gmc = mixture("gmc-diag", "covariance")
        start_from_codes(gmc, codes + 30 * torch.sin(codes), labels, np.random.default_rng(seed))
        starts.append(gmc.means.detach().clone())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
def test_a_random_start_has_small_means_equal_weights_and_one_covariance(kind, parameterisation):
    gmc = mixture(kind, parameterisation)
    start_random(gmc, 0.05, np.random.default_rng(0))
    assert gmc.means.std().item() == pytest.approx(0.05, rel=0.2)
    assert gmc.log_weights.unique().numel() == 1
    mu = gmc.means[:, 0].detach()
    log_var = torch.full_like(mu, np.log(1.09))
    torch.testing.assert_close(gmc.kl(mu, log_var, torch.arange(4)), torch.zeros(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["gmc", "gmc-diag"])
def test_no_scale_starts_where_its_gradient_vanishes(kind):
    gmc = mixture(kind, "covariance")
    codes, labels = clustered(20)
    start_from_codes(gmc, 0.01 * codes, labels, np.random.default_rng(0))
    scale = gmc.scale.detach()
    if kind == "gmc":
        scale = torch.stack([scale[..., i * (i + 3) // 2] for i in range(20)], dim=2)
    assert (scale >= 0.0999).all()
