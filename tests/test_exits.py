"""Exits: the coverage curve, targets, calibrated thresholds."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fed_rebel.exits import Target, at_coverage, calibrate, coverage_curve, route
from fed_rebel.exits.calibrate import FEWEST_OF_A_CLASS, calibrate_by_class

# Few distinct scores make many ties; neighbouring floats have no float between them.
SCORES = st.sampled_from([-3.0, -1.0, 0.0, 5e-324, 0.5, np.nextafter(0.5, 1), 2.0, 40.0, 1.7e308])
ROWS = st.lists(st.tuples(SCORES | st.floats(-1e6, 1e6), st.booleans(), st.booleans()), min_size=1, max_size=25)
TARGETS = (
    st.just(Target("best"))
    | st.builds(Target, st.sampled_from(["coverage", "accuracy"]), st.floats(0, 1))
    | st.builds(Target, st.just("delay"), st.just(1.0), st.floats(0, 1))
)
examples = settings(max_examples=150)


def arrays(rows):
    score, local, remote = zip(*rows, strict=True)
    return np.array(score), np.array(local), np.array(remote)


def split_at(rows, threshold):
    """Coverage, local accuracy answered, remote accuracy sent and overall accuracy, by counting."""
    answered = [local for score, local, _ in rows if score >= threshold]
    sent = [remote for score, _, remote in rows if not score >= threshold]
    return (
        len(answered) / len(rows),
        sum(answered) / len(answered) if answered else float("nan"),
        sum(sent) / len(sent) if sent else float("nan"),
        (sum(answered) + sum(sent)) / len(rows),
    )


@examples
@given(ROWS)
def test_every_point_of_the_curve_is_what_counting_gives_at_its_threshold(rows):
    curve = coverage_curve(*arrays(rows))
    assert curve.thresholds.tolist() == [np.inf, *sorted({row[0] for row in rows}, reverse=True)]
    points = zip(curve.coverage, curve.local_answered, curve.remote_sent, curve.overall, strict=True)
    for threshold, point in zip(curve.thresholds, points, strict=True):
        assert point == pytest.approx(split_at(rows, threshold), nan_ok=True, abs=1e-12)


@examples
@given(ROWS, st.randoms(use_true_random=False))
def test_the_curve_does_not_depend_on_the_order_of_rows(rows, random):
    shuffled = rows.copy()
    random.shuffle(shuffled)
    one, other = coverage_curve(*arrays(rows)), coverage_curve(*arrays(shuffled))
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_at_a_fixed_coverage_ties_are_split_at_random_in_expectation():
    score = np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    local, remote = np.array([1, 1, 0, 0, 0], bool), np.array([0, 0, 1, 0, 1], bool)
    rng = np.random.default_rng(0)
    overall, right = [], []
    for _ in range(20_000):  # three of five: the surest and two of the tied three
        answered = np.append(0, 1 + rng.permutation(3)[:2])
        overall.append((local[answered].sum() + np.delete(remote, answered).sum()) / 5)
        right.append(local[answered].mean())
    assert at_coverage(score, local, remote, 0.6) == pytest.approx(np.mean(overall), abs=0.005)
    answered_at = coverage_curve(score, local, remote).local_answered_at([0, 0.2, 0.6])
    assert answered_at == pytest.approx([np.nan, 1, np.mean(right)], nan_ok=True, abs=0.005)


def test_at_a_fixed_coverage_reads_the_curve_where_it_has_a_point():
    rng = np.random.default_rng(1)
    score, local, remote = rng.normal(size=50), rng.random(50) < 0.6, rng.random(50) < 0.7
    curve = coverage_curve(score, local, remote)
    assert at_coverage(score, local, remote, 0.46) == curve.overall[23]
    assert at_coverage(score, local, remote, 0) == remote.mean()
    assert at_coverage(score, local, remote, 1) == local.mean()


@examples
@given(ROWS, TARGETS)
def test_a_calibrated_threshold_routes_as_the_target_says(rows, target):
    score, local, remote = arrays(rows)
    threshold = calibrate(score, local, remote, target)
    coverage, answered, _, overall = split_at(rows, threshold)
    assert coverage == route(score, threshold).mean()
    ways = [split_at(rows, t) for t in [np.inf, *score]]
    if target.kind == "best":
        assert overall == max(way[3] for way in ways) >= max(local.mean(), remote.mean())
        assert coverage == max(way[0] for way in ways if way[3] == overall)
    elif target.kind == "delay":
        in_time = [way for way in ways if way[0] >= target.least]
        assert overall == max(way[3] for way in in_time)
        assert coverage == max(way[0] for way in in_time if way[3] == overall)
    elif target.kind == "coverage":
        assert coverage == min(way[0] for way in ways if way[0] >= target.value)
    else:
        assert coverage == max((way[0] for way in ways if way[1] >= target.value), default=0)
        assert answered >= target.value or threshold == np.inf


def test_thresholds_lie_midway_and_are_infinite_at_the_ends():
    score, local, remote = [4.0, 2.0, 1.0], [True, False, False], [False, True, False]
    assert calibrate(score, local, remote, Target("best")) == 3.0
    assert calibrate(score, local, remote, Target("coverage", 0.0)) == np.inf
    assert calibrate(score, local, remote, Target("coverage", 1.0)) == -np.inf
    assert calibrate(score, [False] * 3, remote, Target("accuracy", 0.8)) == np.inf
    # The tie between answering one and answering all goes to the larger coverage.
    assert calibrate(score, [True, True, True], [True, True, True], Target("best")) == -np.inf


def test_neighbouring_float32_scores_are_still_told_apart():
    low = np.float32(17.3)
    score = np.array([np.nextafter(low, np.float32(99)), low])
    assert route(score, calibrate(score, [True, False], [False, True], Target("best"))).tolist() == [
        True,
        False,
    ]


def test_a_midpoint_keeps_its_coverage_on_new_queries():
    rng = np.random.default_rng(2)
    got = [
        (rng.normal(size=2000) >= calibrate(rng.normal(size=50), [True] * 50, [True] * 50, Target("coverage", 0.46)))
        for _ in range(500)
    ]
    assert np.mean(got) == pytest.approx(0.46, abs=0.01)


def test_a_label_with_enough_queries_has_a_threshold_of_its_own():
    rng = np.random.default_rng(5)
    label = np.repeat([4, 7, 9], [FEWEST_OF_A_CLASS, FEWEST_OF_A_CLASS + 30, FEWEST_OF_A_CLASS - 1])
    score, local, remote = rng.normal(size=label.size), rng.random(label.size) < 0.7, rng.random(label.size) < 0.6
    found = calibrate_by_class(label, score, local, remote, Target("best"))
    assert set(found) == {4, 7}
    for c, threshold in found.items():
        own = label == c
        assert threshold == calibrate(score[own], local[own], remote[own], Target("best"))
    answered = route(score, [found.get(c, np.inf) for c in label])
    for c in (4, 7, 9):
        own = label == c
        assert np.array_equal(answered[own], route(score[own], found.get(c, np.inf)))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("best", Target("best")),
        ("never", Target("never")),
        ("coverage:0.46", Target("coverage", 0.46)),
        ("accuracy:0.8", Target("accuracy", 0.8)),
        ("delay:0.5", Target("delay", 0.5)),
    ],
)
def test_targets_are_read_and_written(text, target):
    assert Target.parse(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "worst",
        "best:1",
        "never:0",
        "coverage",
        "coverage:",
        "coverage:1.1",
        "accuracy:-0.1",
        "accuracy:nan",
        "accuracy:x",
        "delay",
        "delay:-1",
        "delay:inf",
    ],
)
def test_a_bad_target_is_one_line_that_names_the_setting(text):
    with pytest.raises(ValueError, match=r"^exits\.target: .*allowed.*") as error:
        Target.parse(text)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("score", "local", "named"),
    [
        ([], [], "score"),
        ([1.0], [True, False], "shapes"),
        ([np.nan], [True], "nan"),
        ([np.inf], [True], "inf"),
    ],
)
def test_bad_queries_are_one_line(score, local, named):
    with pytest.raises(ValueError, match=named) as error:
        coverage_curve(score, local, np.ones(len(score), bool))
    assert "\n" not in str(error.value)


def test_a_thousand_clients_take_a_second():
    rng = np.random.default_rng(3)
    score, local, remote = (
        rng.normal(size=(1000, 500)),
        rng.random((1000, 500)) < 0.6,
        rng.random((1000, 500)) < 0.7,
    )
    start = time.process_time()
    for row in range(1000):
        coverage_curve(score[row], local[row], remote[row])
    assert time.process_time() - start < 1
