"""Operations counted by hand, the paper's parameters and memory, and the worked example of the network's load."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fed_rebel.cost import Batch, Link, costs, delay, flops_per_query, least_coverage, network_load
from fed_rebel.early import build
from fed_rebel.model.gdn import GDN

MEBIBYTE = 2**20


def per_query(module, *shape):
    return flops_per_query(module, torch.zeros(4, *shape))


def test_operators_are_counted_as_by_hand():
    assert per_query(nn.Conv2d(3, 8, 3, padding=1), 3, 32, 32) == 2 * 3 * 9 * 8 * 32 * 32
    assert per_query(nn.Conv2d(3, 8, 3, stride=2, padding=1), 3, 32, 32) == 2 * 3 * 9 * 8 * 16 * 16
    assert per_query(nn.Linear(128, 100), 128) == 2 * 128 * 100
    # Square, product with gamma, reciprocal root, product.
    assert per_query(GDN(5), 5, 16, 16) == (5 + 2 * 5 * 5 + 5 + 5) * 16 * 16
    assert per_query(nn.BatchNorm2d(5).eval(), 5, 16, 16) == 2 * 5 * 16 * 16
    assert per_query(nn.ReLU(), 5, 16, 16) == 5 * 16 * 16
    assert per_query(nn.AdaptiveAvgPool2d(1), 5, 16, 16) == 5 * 16 * 16


def test_mixtures_are_counted_as_by_hand():
    classes, components, d, code = 3, 2, 5, 12
    gaussians = classes * components
    # Projected; then for each Gaussian its log-density from the energy, the weights, and the sum over components.
    projected, of_each = 2 * code * d, 2 + 1 + 3
    diagonal = build("gmc-diag", classes=classes, seed=0, code=code, components=components, projection=d)
    energy = 3 * d + 2 * 2 * d * gaussians + 2 * gaussians  # y - origin, its square, 2 y; two products; two sums
    assert per_query(diagonal.class_scores, code) == projected + energy + of_each * gaussians
    full = build("gmc", classes=classes, seed=0, code=code, components=components, projection=d)
    energy = gaussians * (d + 2 * d * d + d + d + 1)  # y - mu, W (y - mu), its squares, their sum, log |Sigma|
    assert per_query(full.class_scores, code) == projected + energy + of_each * gaussians


def test_what_depends_on_parameters_alone_does_not_count():
    weight = torch.ones(10, 10)
    assert flops_per_query(lambda z: z @ weight.exp().log(), torch.zeros(4, 10)) == 2 * 10 * 10


def test_table_1_has_the_papers_parameters_and_memory():
    """Where the paper has misprints (ResNet-50) its own arithmetic is held against ours."""
    of = {cost.part: cost for cost in costs("resnet50", 100, components=8, projection=434, stored=50_000)}
    assert {name: of[name].parameters for name in ("gmc", "gmc-diag", "linear")} == {
        "gmc": 75_864_000,
        "gmc-diag": 695_200,
        "linear": 86_800,
    }
    assert of["Head2 + Tail"].parameters == pytest.approx(22.8e6, rel=0.002)
    assert of["Head1"].parameters == pytest.approx(32.0e3, rel=0.02)
    paper = {"Head2 + Tail": 87.0, "kmeans": 2.96, "knn": 168, "gmc": 291, "gmc-diag": 4.09, "linear": 339 / 1024}
    for name, memory in paper.items():
        assert of[name].memory / MEBIBYTE == pytest.approx(memory, rel=0.03), name


def test_the_worked_example_of_the_network_s_load():
    image, code = 3072, 867
    loads = {"whole images": (image, 0), "HND": (code, 0), "0.23": (code, 0.23), "0.49": (code, 0.49)}
    megabits = {name: network_load(100, 25, *load) / 1e6 for name, load in loads.items()}
    assert megabits == pytest.approx({"whole images": 61.44, "HND": 17.34, "0.23": 13.35, "0.49": 8.84}, abs=0.005)


def test_a_batch_s_delay_is_that_of_device_network_and_server():
    batch = Batch(64, 867, device=0.5, server=0.08)
    parts = delay(batch, 0.25, Link(2e6))
    assert parts.device == 0.5
    assert parts.network == pytest.approx(48 * 867 * 8 / 2e6 + 0.02)
    assert parts.server == pytest.approx(0.06)
    assert parts.total == pytest.approx(parts.device + parts.network + parts.server)
    assert delay(batch, 1.0, Link(2e6)).total == 0.5


BATCHES = st.builds(Batch, st.integers(1, 512), st.integers(1, 10_000), st.floats(0, 2), st.floats(0, 2))
LINKS = st.builds(Link, st.floats(1e6, 1e7), st.floats(0, 0.1))


@given(st.floats(0, 1), st.floats(0, 1), BATCHES, LINKS)
def test_more_coverage_is_never_slower(one, other, batch, link):
    low, high = sorted((one, other))
    slower, faster = (delay(batch, coverage, link).total for coverage in (low, high))
    assert faster <= slower * (1 + 1e-12)


@given(BATCHES, LINKS, st.floats(0, 5))
def test_the_least_coverage_is_in_time_and_a_little_less_is_not(batch, link, more):
    budget = batch.device + more
    least = least_coverage(batch, budget, link)
    assert delay(batch, least, link).total <= budget * (1 + 1e-9) + 1e-9
    if least > 1e-6:
        assert delay(batch, least - 1e-6, link).total > budget - 1e-9


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Link(0.0), "bandwidth = 0.0"),
        (lambda: Link(float("nan")), "bandwidth = nan"),
        (lambda: Link(1e6, -1.0), "round_trip = -1.0"),
        (lambda: delay(Batch(64, 867, 0.1, 0.1), 1.5, Link(1e6)), "coverage = 1.5"),
        (lambda: least_coverage(Batch(64, 867, 0.1, 0.1), 0.05, Link(1e6)), "a delay of 0.05 s"),
    ],
)
def test_what_is_not_allowed_is_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()
