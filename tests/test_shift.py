"""A client whose world changes: exact mixtures, and a threshold calibrated for them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fed_rebel.exits import Outcomes, Target, Thresholds, calibrate
from fed_rebel.exits.shift import SHARES, best_threshold, shift_rows

QUERY = st.tuples(st.integers(-4, 4), st.booleans(), st.booleans())
QUERIES = st.lists(QUERY, min_size=1, max_size=12)


def outcomes(queries):
    score, local, remote = zip(*queries, strict=True)
    return Outcomes(np.zeros(len(score), int), np.array(score, float), np.array(local), np.array(remote))


def overall(queries, threshold):
    return np.mean([local if score >= threshold else remote for score, local, remote in queries])


@given(QUERIES, QUERIES, st.sampled_from(SHARES))
def test_no_threshold_is_better_for_the_mixture(own, outside, share):
    found = best_threshold(outcomes(own), outcomes(outside), share)

    def mixed(threshold):
        return (1 - share) * overall(own, threshold) + share * overall(outside, threshold)

    tried = [-np.inf, np.inf, *(score + half for score, _, _ in own + outside for half in (-0.5, 0, 0.5))]
    assert mixed(found) == pytest.approx(max(map(mixed, tried)), abs=1e-12)


@given(QUERIES, QUERIES)
def test_without_outside_queries_it_is_what_calibrate_finds(own, outside):
    mine = outcomes(own)
    assert best_threshold(mine, outcomes(outside), 0) == calibrate(mine.score, mine.local, mine.remote, Target("best"))


def test_a_share_is_between_0_and_1():
    queries = outcomes([(0, True, True)])
    with pytest.raises(ValueError, match=r"share: 1\.5"):
        best_threshold(queries, queries, 1.5)


def made(rng, split, client, size, right, remote_right, shift):
    local = rng.random(size) < right
    return pd.DataFrame(
        {
            "client": client,
            "split": split,
            "label": 0,
            "local_label": np.where(local, 0, 1),
            "remote_label": np.where(rng.random(size) < remote_right, 0, 1),
            "score": rng.normal(size=size) + 2 * local + shift,
        }
    )


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    sizes = {"val": 60, "test": 80, "val_outside": 70, "test_outside": 90}
    return pd.concat(
        made(rng, split, client, size, 0.05 if "outside" in split else 0.8, 0.6, 1.0 * ("outside" in split))
        for client in (0, 1)
        for split, size in sizes.items()
    )


def test_every_measure_is_that_of_the_mixture_query_by_query(predictions):
    thresholds = {0: Thresholds(0.3), 1: Thresholds(-0.1, {1: 0.7})}
    rows = shift_rows(predictions, thresholds)
    assert len(rows) == 2 * len(SHARES) * 2
    for row in rows.itertuples():
        test = predictions[predictions["client"] == row.client]
        own, outside = (test[test["split"] == split].itertuples() for split in ("test", "test_outside"))
        answered = wrong_alone = right = 0.0
        weighted = [((1 - row.share) / 80, query, False) for query in own]
        weighted += [(row.share / 90, query, True) for query in outside]
        for weight, query, foreign in weighted:
            own_threshold = row.kind == "as calibrated" and row.client == 1 and query.local_label == 1
            alone = query.score >= (0.7 if own_threshold else row.threshold)
            said = query.local_label if alone else query.remote_label
            answered += weight * alone
            wrong_alone += weight * (foreign and alone and said != query.label)
            right += weight * (said == query.label)
        assert (row.answered, row.wrong_alone, row.overall) == pytest.approx((answered, wrong_alone, right))
        if row.kind == "as calibrated":
            assert row.threshold == thresholds[row.client].common
        else:
            split = {name: Outcomes.of(test[test["split"] == name]) for name in ("val", "val_outside")}
            assert row.threshold == best_threshold(split["val"], split["val_outside"], row.share)


def test_a_threshold_for_the_share_saves_what_the_old_one_loses(predictions):
    val = Outcomes.of(predictions[predictions["split"] == "val"])
    threshold = val.thresholds(Target("best")).common
    rows = shift_rows(predictions, dict.fromkeys((0, 1), Thresholds(threshold))).groupby(["share", "kind"]).mean()
    old, new = (rows.xs(kind, level="kind") for kind in ("as calibrated", "best for the share"))
    assert new.loc[1.0, "overall"] > old.loc[1.0, "overall"] + 0.1
    assert new.loc[1.0, "wrong_alone"] < old.loc[1.0, "wrong_alone"] - 0.1
    assert (old["wrong_alone"].diff().dropna() > 0).all()


def test_few_validation_queries_take_the_pooled_threshold(predictions):
    few = predictions[(predictions["split"] != "val") | (predictions["client"] == 1)]
    few = pd.concat([few, predictions[(predictions["split"] == "val") & (predictions["client"] == 0)].head(49)])
    rows = shift_rows(few, dict.fromkeys((0, 1), Thresholds(0.0)))
    pooled = [Outcomes.of(few[few["split"] == split]) for split in ("val", "val_outside")]
    own = rows[(rows["client"] == 0) & (rows["kind"] == "best for the share")]
    assert own["threshold"].tolist() == [best_threshold(*pooled, share) for share in SHARES]


def test_a_run_without_such_queries_has_no_rows(predictions):
    assert shift_rows(predictions[~predictions["split"].str.contains("outside")], {0: Thresholds(0.0)}).empty
    # A client that holds every class has none, and is left out.
    some = predictions[~predictions["split"].str.contains("outside") | (predictions["client"] == 1)]
    assert set(shift_rows(some, dict.fromkeys((0, 1), Thresholds(0.0)))["client"]) == {1}
