"""Reports over several runs: what is compared, the figures, and a page that stands on its own."""

import json
import re
import shutil
import tomllib

import numpy as np
import pandas as pd
import pytest
import tomli_w
from rich.console import Console

from fed_rebel import load_runs
from fed_rebel.exits import Outcomes
from fed_rebel.report import comparison_table, read_runs, write_comparison
from fed_rebel.report.comparison import COLUMNS, RIVALS, compare, effect_of_skew, paired, settings_table, sources
from fed_rebel.report.comparison_figures import shift
from fed_rebel.report.comparison_page import sentence, statements
from fed_rebel.report.grid import clients_of, short_key, value_text
from fed_rebel.report.statistics import mean_interval

CLIENTS = 3


@pytest.fixture(scope="module")
def copy_run(finished, tmp_path_factory):
    """The finished run under another name, with other settings, its predictions and clients changed."""
    folder = tmp_path_factory.mktemp("runs")

    def copy(name, changes=None, outside=False, better=0.0, partition=None):
        path = folder / name
        shutil.copytree(finished.run.path, path, symlinks=True)
        (path / "report.html").touch()  # to draw one takes seconds
        tree = tomllib.loads((path / "settings.toml").read_text(encoding="utf-8"))
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            node = tree
            for section in sections:
                node = node[section]
            node[last] = value
        (path / "settings.toml").write_text(tomli_w.dumps(tree), encoding="utf-8")
        clients = pd.read_csv(path / "clients.csv")
        for column in ("overall_acc", "gain"):
            clients[column] += better
        if partition is not None:
            clients["partition"] = partition
        clients.to_csv(path / "clients.csv", index=False)
        predictions = pd.read_parquet(path / "predictions.parquet")
        predictions = predictions[~predictions["split"].str.endswith("_outside")]
        if outside:
            foreign = predictions.assign(split=predictions["split"] + "_outside", local_label=np.int16(-1))
            predictions = pd.concat([predictions, foreign])
        predictions.to_parquet(path / "predictions.parquet", index=False)
        return path

    return copy


@pytest.fixture(scope="module")
def paths(copy_run):
    """Two alphas, two classifiers, two seeds; with queries from outside."""
    return [
        copy_run(
            f"{kind}-{alpha}-{seed}",
            {"early.kind": kind, "partition.alpha": alpha, "seed": seed},
            outside=True,
            better=0.02 * (kind == "knn") + 0.01 * seed * (alpha == 1.0),
            partition=f"{alpha}-{seed}",
        )
        for kind in ("gmc-diag", "knn")
        for alpha in (10.0, 1.0)
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def compared(paths, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    (paths[0] / "report.html").unlink()
    return write_comparison(read_runs(paths), out), out


def test_settings_are_named_for_what_differs_and_ordered_by_value(compared):
    comparison, _ = compared
    assert comparison.keys == ("partition.alpha", "early.kind")
    assert comparison.settings == tuple(
        f"alpha={alpha}, early.kind={kind}" for alpha in (1, 10) for kind in ("gmc-diag", "knn")
    )


def test_engines_and_seeds_make_no_setting(copy_run):
    paths = [copy_run(f"engine-{seed}", {"seed": seed, "engine.clients_at_once": seed}) for seed in (5, 6)]
    comparison = compare(read_runs(paths))
    assert comparison.keys == ()
    assert comparison.settings == ("tiny",)
    table = load_runs(paths)
    assert set(table["engine.clients_at_once"]) == {5, 6}


def test_a_key_that_an_older_run_does_not_name_has_its_default(copy_run):
    old = copy_run("old", {"seed": 7})
    text = (old / "settings.toml").read_text(encoding="utf-8")
    (old / "settings.toml").write_text(re.sub(r"^head1 = .*$", "", text, flags=re.MULTILINE), encoding="utf-8")
    new = copy_run("new", {"seed": 7, "head1": "shared"})
    assert load_runs([old, new]).groupby("run")["head1"].first().to_dict() == {"old": "local", "new": "shared"}


def test_a_key_of_another_version_is_unset_where_a_run_lacks_it(copy_run):
    runs = read_runs([copy_run("here"), copy_run("there", {"early.shape": "round"})])
    assert compare(runs).settings == ("early.shape=unset", "early.shape=round")
    assert clients_of(runs).groupby("run")["early.shape"].first().to_dict() == {"here": None, "there": "round"}


@pytest.mark.parametrize(
    ("key", "short"), [("partition.alpha", "alpha"), ("early.kind", "early.kind"), ("head1", "head1")]
)
def test_a_key_is_as_short_as_it_is_clear(key, short):
    assert short_key(key) == short


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "1"), (1e-05, "1e-05"), (0.1, "0.1"), (True, "true"), (3, "3"), ("/data/x.npz", "x")]
)
def test_a_value_is_named_plainly(value, text):
    assert value_text(value) == text


def test_the_table_has_means_over_seeds_of_means_over_clients(compared):
    comparison, _ = compared
    clients = comparison.clients
    for setting, (seeds, means) in settings_table(comparison).items():
        assert seeds == 2
        for column in COLUMNS:
            own = clients[clients["setting"] == setting]
            by_seed = [sum(own.loc[own["seed"] == seed, column.key]) / CLIENTS for seed in (0, 1)]
            expected = mean_interval(by_seed)
            assert means[column.key].value == pytest.approx(expected.value)
            assert means[column.key].half_width == pytest.approx(expected.half_width)


def test_rivals_stand_beside_the_gain(compared):
    comparison, out = compared
    setting = comparison.settings[0]
    own = comparison.clients[comparison.clients["setting"] == setting]
    _, means = settings_table(comparison, RIVALS)[setting]
    for name in ("majority_acc", "remote_acc_prior", "overall_acc_stacked"):
        by_hand = np.mean([own.loc[own["seed"] == seed, name].mean() for seed in (0, 1)])
        assert means[name].value == pytest.approx(by_hand)
    found = dict(sources(comparison))[setting]
    assert found.prior.value == pytest.approx((own["remote_acc_prior"] - own["remote_acc"]).mean())
    assert found.training.value == pytest.approx((own["local_acc"] - own["local_acc_start"]).mean())
    drawn = pd.read_csv(out / "figures" / "rivals.csv").set_index(["setting", "what"])["mean"]
    assert drawn[setting, "remote_acc_prior"] == pytest.approx(means["remote_acc_prior"].value)


def test_traffic_is_what_a_client_sent_and_received(compared):
    comparison, _ = compared
    run = comparison.runs[0]
    rows = [json.loads(line) for line in (run.path / "rounds.jsonl").read_text().splitlines()]
    own = comparison.clients[comparison.clients["run"] == run.name].set_index("client")
    for client in own.index:
        sent = sum(row["bytes_up"] + row["bytes_down"] for row in rows if row["client"] == client)
        assert own.loc[client, "traffic"] == pytest.approx(sent / 2**20)


def test_runs_from_before_stacking_have_dashes_for_it(copy_run):
    path = copy_run("older")
    clients = pd.read_csv(path / "clients.csv")
    clients.drop(columns=[name for name in clients if name.endswith("_stacked")]).to_csv(path / "clients.csv")
    comparison = compare(read_runs([path]))
    _, means = settings_table(comparison, RIVALS)[comparison.settings[0]]
    assert np.isnan(means["overall_acc_stacked"].value)
    assert not any("stacking" in told for told in statements(comparison))


def test_the_terminal_table_is_80_wide_with_short_names(copy_run):
    comparison = compare(read_runs([copy_run(f"short-{s}", {"seed": s}) for s in (0, 1)]))
    console = Console(width=80, record=True)
    console.print(comparison_table(comparison))
    lines = console.export_text().splitlines()
    assert lines[0].split() == ["setting", "seeds", "Gini", "local", "remote", "overall", "coverage", "gain"]
    assert lines[2].split()[:2] == ["tiny", "2"]


def test_methods_are_paired_on_the_same_partitions(compared):
    comparison, _ = compared
    found = {(one, other): difference for one, other, difference in paired(comparison, "overall_acc")}
    # Only pairs that share partitions: the two kinds at each alpha.
    assert set(found) == {
        (f"alpha={alpha}, early.kind=gmc-diag", f"alpha={alpha}, early.kind=knn") for alpha in (1, 10)
    }
    for difference in found.values():
        assert difference.difference.value == pytest.approx(0.02)
        assert difference.difference.n == 2  # partitions


def test_the_effect_of_skew_is_told_for_each_method(compared):
    comparison, _ = compared
    told = dict(effect_of_skew(comparison))
    assert set(told) == {"early.kind=gmc-diag", "early.kind=knn"}
    for effect in told.values():
        assert (effect.clients.n, effect.runs.n) == (4 * CLIENTS, 4)


def test_coverage_without_loss_is_the_largest_that_costs_nothing(compared):
    comparison, _ = compared
    run = comparison.runs[0]
    predictions = pd.read_parquet(run.path / "predictions.parquet")
    row = comparison.clients[(comparison.clients["run"] == run.name) & (comparison.clients["client"] == 1)].iloc[0]
    test = Outcomes.of(predictions[(predictions["split"] == "test") & (predictions["client"] == 1)])
    free = 0.0
    for threshold in np.unique(test.score):
        answered = test.score >= threshold
        if np.where(answered, test.local, test.remote).mean() >= test.remote.mean():
            free = max(free, answered.mean())
    assert row["coverage_without_loss"] == pytest.approx(free)
    assert row["gain_over_local"] == pytest.approx(row["overall_acc"] - row["local_acc"])


def test_every_figure_is_there_as_png_pdf_and_csv(compared):
    _, out = compared
    names = ["fig8a", "fig8b", "fig9a", "fig9b", "gain_over_local", "gain_over_remote", "coverage_without_loss"]
    names += ["calibration", "shift", "rivals"]
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "pdf", "csv")
    }


def test_a_band_runs_from_the_lowest_to_the_highest_seed(compared):
    comparison, out = compared
    drawn = pd.read_csv(out / "figures" / "fig8b.csv")
    own = drawn[(drawn["setting"] == comparison.settings[0]) & (drawn["coverage"] == 0.5)].iloc[0]
    at = comparison.curves
    at = at[(at["setting"] == comparison.settings[0]) & (at["coverage"] == 0.5)]["overall"]
    assert (own["mean"], own["low"], own["high"]) == pytest.approx((at.mean(), at.min(), at.max()))


def test_figures_that_nothing_can_be_drawn_of_are_left_out_and_those_of_an_earlier_report_go(copy_run, tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("shift.png", "shift.pdf", "shift.csv", "mine.png"):
        (figures / name).touch()
    write_comparison(read_runs([copy_run(f"plain-{seed}", {"seed": seed}) for seed in (0, 1)]), tmp_path)
    drawn = {path.stem for path in figures.iterdir()}
    assert not drawn & {"fig9a", "fig9b", "shift"}
    assert drawn >= {"fig8a", "mine"}


def test_a_run_without_queries_from_outside_does_not_hinder_the_others(copy_run, paths):
    assert shift(compare(read_runs([*paths, copy_run("inside", {"partition.alpha": 100.0})]))) is not None


def test_runs_without_an_early_classifier_stand_in_the_table_alone(copy_run, tmp_path):
    none = copy_run("none", {"early.kind": "none"})
    clients = pd.read_csv(none / "clients.csv").assign(local_acc=np.nan, coverage=0.0, gain=0.0)
    clients.to_csv(none / "clients.csv", index=False)
    comparison = write_comparison(read_runs([none, copy_run("with")]), tmp_path)
    assert set(comparison.settings) == {"early.kind=gmc-diag", "early.kind=none"}
    assert set(comparison.curves["setting"]) == {"early.kind=gmc-diag"}
    assert "early.kind=none" not in sentence(comparison)
    write_comparison(read_runs([none]), tmp_path / "alone")
    assert {path.stem for path in (tmp_path / "alone" / "figures").iterdir()} == {"rivals"}


def test_the_page_loads_nothing_and_tells_in_words(compared, paths):
    comparison, out = compared
    page = (out / "report.html").read_text(encoding="utf-8")
    body = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", body)
    for path in paths:
        assert f"{path.name}/report.html" in body
    assert (paths[0] / "report.html").stat().st_size  # it had none
    assert "clients gain most with" in sentence(comparison)
    told = list(statements(comparison))
    assert any(statement.startswith("Overall accuracy, alpha=1, early.kind=knn minus") for statement in told)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert {figure["id"] for figure in data} >= {
        "fig8a",
        "fig8b",
        "fig9a",
        "fig9b",
        "gain_over_remote",
        "shift_overall",
    }
    assert json.dumps(data, allow_nan=False)


def test_the_same_runs_give_the_same_files(compared, paths, tmp_path):
    _, out = compared
    again = tmp_path / out.name
    write_comparison(read_runs(reversed(paths)), again)
    for path in sorted((out / "figures").iterdir()):
        assert path.read_bytes() == (again / "figures" / path.name).read_bytes(), path.name


def test_the_same_settings_and_seed_twice_are_refused(copy_run):
    with pytest.raises(ValueError, match="the same settings and seed"):
        compare(read_runs([copy_run("twin-a"), copy_run("twin-b")]))


def test_damage_is_one_line_that_names_the_file(copy_run):
    path = copy_run("damaged")
    (path / "settings.toml").write_text("seed = ", encoding="utf-8")
    with pytest.raises(ValueError, match=r"damaged.settings\.toml: ") as raised:
        load_runs(path)
    assert "\n" not in str(raised.value)
