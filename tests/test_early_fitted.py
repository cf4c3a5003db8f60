"""k-NN and k-means: their answers follow from the codes they were fitted to, and from nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fed_rebel.early import FittedClassifier, answer, build
from fed_rebel.early.knn import NEIGHBOURS

FITTED = ("kmeans", "knn")
CODE = 6


def small(kind, classes=4, components=2):
    return build(kind, classes=classes, seed=3, code=CODE, components=components)


def fitted(kind, rows, seed=0, classes=4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    z = torch.from_numpy(rng.normal(labels[:, None], 1.0, (rows, CODE)).astype(np.float32))
    early = small(kind, classes)
    early.fit(z, torch.from_numpy(labels))
    return early, z, labels, torch.from_numpy(rng.normal(1.5, 2.0, (9, CODE)).astype(np.float32))


@given(rows=st.integers(1, 260), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_nearest_neighbours_vote(rows, seed):
    early, z, labels, queries = fitted("knn", rows, seed)
    answered = answer(early.class_scores(queries))
    for row, query in enumerate(queries):
        nearest = (z - query).square().sum(1).argsort(stable=True)[: min(NEIGHBOURS, rows)].numpy()
        votes = np.bincount(labels[nearest], minlength=4)
        assert votes[answered.label[row]] == votes.max()
        assert answered.confidence[row] == pytest.approx(votes.max() / votes.sum(), abs=1e-6)


@given(rows=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_nearest_cluster_s_predominant_label_and_its_share(rows, seed):
    early, z, labels, queries = fitted("kmeans", rows, seed)
    present = len(np.unique(labels))
    assert 1 <= len(early.centroids) <= min(2 * present, rows)

    def nearest(codes):
        return (codes[:, None] - early.centroids).square().sum(2).argmin(1)

    answered = answer(early.class_scores(queries))
    for row, cluster in enumerate(nearest(queries)):
        counts = np.bincount(labels[(nearest(z) == cluster).numpy()], minlength=4)
        assert counts[answered.label[row]] == counts.max()
        assert answered.confidence[row] == pytest.approx(counts.max() / counts.sum(), abs=1e-6)


@pytest.mark.parametrize("kind", FITTED)
def test_the_same_codes_give_the_same_classifier(kind):
    one, other = (fitted(kind, 200)[0] for _ in range(2))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("kind", FITTED)
def test_there_is_nothing_to_train_and_no_prior_to_add(kind):
    early, z, labels, queries = fitted(kind, 50)
    assert isinstance(early, FittedClassifier)
    assert not list(early.parameters())
    assert early.loss(z, torch.from_numpy(labels)) == 0
    assert not early.kl(z, z, torch.from_numpy(labels)).any()
    before = early.class_scores(queries)
    early.apply_prior(torch.tensor([0.7, 0.1, 0.1, 0.1]))
    assert torch.equal(early.class_scores(queries), before)


@pytest.mark.parametrize("kind", FITTED)
def test_an_absent_class_is_never_the_answer(kind):
    early = small(kind)
    early.fit(torch.randn(30, CODE, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 3] * 15))
    scores = early.class_scores(torch.zeros(5, CODE))
    assert scores[:, [0, 2]].isneginf().all()
    assert set(answer(scores).label.tolist()) <= {1, 3}
    assert answer(scores).score.isfinite().all()
