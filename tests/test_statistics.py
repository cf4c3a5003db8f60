"""Statistics of the report: each against a slow, plain derivation."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fed_rebel.exits import calibration_error, confidence_at, fit_temperature
from fed_rebel.report.statistics import (
    Estimate,
    calibration_errors,
    mean_interval,
    over_seeds,
    paired_difference,
    pooled_correlation,
    rank_correlation,
)

numbers = st.floats(-100, 100).map(lambda value: round(value, 3))


@given(st.lists(numbers, min_size=2, max_size=12))
def test_the_interval_over_seeds_is_student_s(values):
    found = mean_interval(values)
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    # The 97.5 % point of Student's t by bisection on its distribution function.
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if stats.t.cdf(middle, len(values) - 1) < 0.975 else (low, middle)
    half = low * math.sqrt(variance / len(values))
    assert found.value == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=1e-6)
    assert found.n == len(values)


def test_three_seeds_as_in_a_table():
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.value, found.half_width) == pytest.approx((2.0, 4.3027 / math.sqrt(3)), abs=1e-3)


def test_one_seed_has_no_interval_and_none_no_mean():
    assert mean_interval([0.5, np.nan]).value == 0.5
    assert math.isnan(mean_interval([0.5]).low)
    assert math.isnan(mean_interval([]).value)


def clients(rows):
    return pd.DataFrame(rows, columns=["partition", "client", "overall_acc"])


def test_pairs_are_the_same_client_of_the_same_partition():
    one = clients([("a", 0, 0.6), ("a", 1, 0.5), ("b", 0, 0.9), ("d", 0, 0.1), ("e", 0, 0.7)])
    other = clients([("b", 0, 0.6), ("a", 1, 0.3), ("c", 7, 0.0), ("a", 0, 0.6), ("e", 0, 0.5)])
    found = paired_difference(one, other, "overall_acc")
    assert found.difference.value == pytest.approx(0.2)
    # Partitions, not clients: those of one share a server.
    assert found.difference.n == 3
    differences = np.array([0.1, 0.3, 0.2])
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(3))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 2))
    assert found.difference.low == pytest.approx(0.2 - stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3))


def test_what_is_there_twice_counts_once():
    one = clients([("a", 0, 0.6), ("a", 0, 0.8), ("a", 1, 0.5)])
    other = clients([("a", 0, 0.5), ("a", 1, 0.5)])
    found = paired_difference(one, other, "overall_acc").difference
    assert (found.value, found.n) == (pytest.approx(0.1), 1)
    assert math.isnan(found.low)


def test_an_interval_over_seeds_does_not_shrink_with_the_clients():
    values, seeds = pd.Series([0.1, 0.3, 0.2, 0.6]), pd.Series([0, 0, 1, 1])
    assert over_seeds(values, seeds) == mean_interval([0.2, 0.4])
    assert over_seeds(pd.concat([values] * 9), pd.concat([seeds] * 9)).low == pytest.approx(
        mean_interval([0.2, 0.4]).low
    )


def test_correlations_of_groups_are_pooled_by_their_size():
    alike = Estimate(0.5, np.nan, np.nan, 13)
    both = pooled_correlation([alike, alike, Estimate(np.nan, np.nan, np.nan, 9), Estimate(1.0, np.nan, np.nan, 3)])
    assert (both.value, both.n) == (pytest.approx(0.5), 26)
    half = 1.959964 * math.sqrt((1 + 0.5**2 / 2) / 20)
    assert both.high == pytest.approx(math.tanh(math.atanh(0.5) + half), abs=1e-6)
    assert math.isnan(pooled_correlation([]).value)


def test_nothing_in_common_is_refused():
    with pytest.raises(ValueError, match="no client in common"):
        paired_difference(clients([("a", 0, 0.6)]), clients([("b", 0, 0.6)]), "overall_acc")


def ranks(values):
    """Mean ranks: of each value the number below it, and half of those that equal it."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=20))
def test_the_rank_correlation_is_pearson_s_of_the_ranks(pairs):
    x, y = zip(*pairs, strict=True)
    found = rank_correlation(x, y)
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert math.isnan(found.value)
        return
    a, b = (np.array(ranks(values)) - np.mean(ranks(values)) for values in (x, y))
    r = (a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum())
    assert found.value == pytest.approx(r, abs=1e-9)
    if abs(r) < 0.999:
        z, width = 0.5 * math.log((1 + r) / (1 - r)), 1.959964 * math.sqrt((1 + r * r / 2) / (len(pairs) - 3))
        assert found.low == pytest.approx(math.tanh(z - width), abs=1e-5)
        assert found.high == pytest.approx(math.tanh(z + width), abs=1e-5)
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_the_interval_of_the_correlation_covers():
    """In 95 of 100 samples of a normal pair of correlation 0.5 the interval holds Spearman's rho of that law."""
    rng = np.random.default_rng(0)
    rho = 6 / math.pi * math.asin(0.25)
    covered = 0
    for _ in range(1000):
        x, e = rng.normal(size=(2, 60))
        found = rank_correlation(x, 0.5 * x + math.sqrt(0.75) * e)
        covered += found.low <= rho <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=1, max_size=30))
def test_no_temperature_of_a_grid_fits_better(queries):
    score, right = np.array([s for s, _ in queries]), np.array([r for _, r in queries])
    found = fit_temperature(score, right)

    def loss(temperature):
        p = 1 / (1 + np.exp(-np.clip(score / temperature, -700, 700)))
        return -np.mean(np.log(np.maximum(np.where(right, p, 1 - p), 1e-300)))

    assert 1e-3 <= found <= 1e3
    assert loss(found) <= min(loss(t) for t in np.geomspace(0.01, 900, 60)) + 1e-6


def test_the_temperature_that_made_the_labels_is_found():
    rng = np.random.default_rng(1)
    score = rng.normal(size=50_000) * 6
    right = rng.random(score.size) < 1 / (1 + np.exp(-score / 3))
    assert fit_temperature(score, right) == pytest.approx(3, rel=0.05)
    before, after = (calibration_error(confidence_at(score, t), right) for t in (1.0, 3.0))
    assert after < 0.01 < before


def test_a_client_with_few_validation_queries_takes_the_pooled_temperature():
    rng = np.random.default_rng(2)
    tables = []
    for client, (size, scale) in enumerate([(400, 4.0), (20, 1.0)]):
        for split, number in (("val", size), ("test", 300)):
            score = rng.normal(size=number) * 3
            right = rng.random(number) < 1 / (1 + np.exp(-score / scale))
            label = np.zeros(number, np.int16)
            columns = {"client": client, "split": split, "label": label, "local_label": np.where(right, 0, 1)}
            tables.append(pd.DataFrame(columns | {"score": score, "remote_label": 0}))
    predictions = pd.concat(tables)
    found = calibration_errors(predictions).set_index("client")
    val = predictions[predictions["split"] == "val"]
    of_first = val[val["client"] == 0]
    for client, fitted_on in ((0, of_first), (1, val)):
        expected = fit_temperature(fitted_on["score"], fitted_on["label"] == fitted_on["local_label"])
        assert found.loc[client, "temperature"] == expected
    test = predictions[(predictions["split"] == "test") & (predictions["client"] == 0)]
    right = (test["label"] == test["local_label"]).to_numpy()
    given = 1 / (1 + np.exp(-test["score"].to_numpy()))
    assert found.loc[0, "calibration_error"] == pytest.approx(calibration_error(given, right))
    assert found.loc[0, "calibration_error_scaled"] < found.loc[0, "calibration_error"]
