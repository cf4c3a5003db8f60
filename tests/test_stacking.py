"""Stacking: the server's answer, the device's opinion and the label shares, weighed on validation images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from fed_rebel.exits import Stack
from fed_rebel.exits.stacking import FLOOR, RIDGE, UNFITTED


def made(seed=0, images=200, classes=5, sharpness=3.0):
    """Server and device that see the label through noise, and shares that are skewed."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(classes)) * 0.98 + 0.02 / classes
    labels = rng.choice(classes, images, p=shares)
    signal = np.eye(classes)[labels]
    remote = sharpness * (signal + rng.normal(size=signal.shape))
    local = signal + rng.normal(size=signal.shape)
    return remote, local, np.log(shares), labels


def slow_loss(weights, remote, local, log_shares, labels):
    """The definition, image by image."""
    total = 0.0
    for row_remote, row_local, label in zip(log_softmax(remote, 1), log_softmax(local, 1), labels, strict=True):
        scores = [
            weights[0] * max(r, FLOOR) + weights[1] * max(d, FLOOR) + weights[2] * share
            for r, d, share in zip(row_remote, row_local, log_shares, strict=True)
        ]
        total -= scores[label] - np.log(np.sum(np.exp(scores)))
    return total / len(labels) + RIDGE * sum((w - u) ** 2 for w, u in zip(weights, UNFITTED, strict=True))


def test_the_weights_have_the_least_cross_entropy():
    data = made()
    stack = Stack.fit(*data)
    best = np.array([stack.remote, stack.local, stack.prior])
    least = slow_loss(best, *data)
    for step in 1e-3 * np.vstack([np.eye(3), -np.eye(3)]):
        if (best + step >= 0).all():
            assert slow_loss(best + step, *data) >= least
    assert least < slow_loss(np.array(UNFITTED), *data)


def test_a_server_that_is_too_sure_is_cooled_down():
    remote, local, log_shares, labels = made(images=2000, sharpness=1.0)
    cool, hot = (Stack.fit(factor * remote, 0 * local, log_shares, labels) for factor in (1, 4))
    assert hot.remote == pytest.approx(cool.remote / 4, rel=0.2)


def test_unfitted_is_the_server_corrected_by_the_shares():
    remote, local, log_shares, _ = made()
    assert Stack().labels(remote, local, log_shares).tolist() == (remote + log_shares).argmax(1).tolist()


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 6), images=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_no_weight_is_negative_or_infinite_whatever_the_images(seed, classes, images):
    remote, local, log_shares, labels = made(seed, images, classes)
    local[:, 0] = -np.inf  # a class that is among no image's neighbours
    remote[0] *= 1e4
    stack = Stack.fit(remote, local, log_shares, labels)
    assert all(0 <= weight < 1e3 for weight in (stack.remote, stack.local, stack.prior))
    assert np.isin(stack.labels(remote, local, log_shares), np.arange(classes)).all()


def test_a_client_of_one_class_has_finite_weights_and_is_right():
    remote, local, _, _ = made()
    log_shares, labels = np.log([0.96, 0.01, 0.01, 0.01, 0.01]), np.zeros(len(remote), int)
    stack = Stack.fit(remote, local, log_shares, labels)
    assert (stack.labels(remote, local, log_shares) == 0).mean() > 0.9


def test_without_images_there_is_nothing_to_fit():
    with pytest.raises(ValueError, match="at least 1"):
        Stack.fit(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(3), np.zeros(0, int))
