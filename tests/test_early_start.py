"""How a mixture starts: at small random means."""

import numpy as np
import pytest
import torch

from fed_rebel.early import build, start_random
from fed_rebel.early.triangular import diagonal_places

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


@pytest.mark.parametrize(("kind", "parameterisation"), KINDS)
def test_a_random_start_has_small_means_equal_weights_and_one_covariance(kind, parameterisation):
    gmc = mixture(kind, parameterisation)
    start_random(gmc, 0)
    assert gmc.means.std().item() == pytest.approx(0.05, rel=0.2)
    assert gmc.log_weights.unique().numel() == 1
    mu = gmc.means[:, 0].detach()
    log_var = torch.full_like(mu, np.log(1.09))
    torch.testing.assert_close(gmc.kl(mu, log_var, torch.arange(4)), torch.zeros(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["gmc", "gmc-diag"])
def test_no_scale_starts_where_its_gradient_vanishes(kind):
    scale = mixture(kind, "covariance").scale.detach()
    if kind == "gmc":
        scale = scale[..., diagonal_places(20)]
    assert (scale >= 0.0999).all()


@pytest.mark.parametrize("kind", ["gmc", "gmc-diag"])
def test_a_start_depends_on_the_seed_alone(kind):
    first, second = (mixture(kind, "covariance").means for _ in range(2))
    assert torch.equal(first, second)
