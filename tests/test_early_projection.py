"""The Achlioptas projection."""

import numpy as np
import pytest
import torch

from fed_rebel.early import build
from fed_rebel.early.projection import AchlioptasProjection


def test_the_seed_alone_decides_the_matrix():
    one, same, other = (AchlioptasProjection(867, 434, seed).matrix for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    early = [build("gmc-diag", classes=c, seed=5, components=k) for c, k in ((2, 1), (3, 4))]
    assert all(torch.equal(e.projection.matrix, one) for e in early)


def test_entries_have_achlioptas_values_and_probabilities():
    matrix = AchlioptasProjection(867, 434, 0).matrix.numpy()
    assert matrix.shape == (434, 867)
    scale = np.float32(np.sqrt(3 / 434))
    assert set(np.unique(matrix)) == {-scale, np.float32(0), scale}
    for value, probability in ((scale, 1 / 6), (0, 2 / 3), (-scale, 1 / 6)):
        error = np.sqrt(probability * (1 - probability) / matrix.size)
        assert (matrix == value).mean() == pytest.approx(probability, abs=4 * error)


def test_squared_lengths_are_kept_in_the_mean():
    z = torch.randn(867, generator=torch.Generator().manual_seed(0))
    ratios = [(AchlioptasProjection(867, 434, s)(z).square().sum() / z.square().sum()).item() for s in range(20)]
    assert np.mean(ratios) == pytest.approx(1, abs=0.06)  # four standard errors: sqrt(2 / 434 / 20)


def test_variances_are_the_diagonal_of_the_covariances():
    projection = AchlioptasProjection(12, 5, 0)
    variances = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    covariances = projection.covariances(variances)
    r = projection.matrix
    torch.testing.assert_close(covariances[1], r @ variances[1].diag() @ r.T)
    torch.testing.assert_close(projection.variances(variances), covariances.diagonal(dim1=1, dim2=2))


def test_it_is_neither_trained_nor_saved():
    projection = AchlioptasProjection(12, 5, 0)
    assert list(projection.parameters()) == []
    assert projection.state_dict() == {}
