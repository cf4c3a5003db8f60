"""The table of benchmarks, on its cheapest ones for real."""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def benchmarks_beside_the_tests(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def run(*arguments):
    from benchmarks.__main__ import main

    return main([*map(str, arguments)])


def test_the_table_has_a_ratio_and_the_machine_as_text_and_as_json(tmp_path, capsys):
    assert run("command_line", "curves", "message", "mixtures", "--quick", "--out", tmp_path) == 0
    text, found = (tmp_path / "table.md").read_text(), json.loads((tmp_path / "table.json").read_text())
    assert capsys.readouterr().out == text
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["torch"]
    assert len(found["rows"]) == 3 + 2 + 1 + 6
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"])
        assert row["name"] in text


def test_what_is_not_installed_is_said_and_the_rest_is_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    assert run("partition", "--quick", "--out", tmp_path) == 0
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["ratio"] is None for row in rows] == [True, False, True, False]
    assert "not installed" in (tmp_path / "table.md").read_text()


def test_a_benchmark_that_fails_leaves_the_others_their_rows(tmp_path, monkeypatch):
    from benchmarks import curves

    monkeypatch.setattr(curves, "rows", lambda quick: 1 / 0)
    assert run("curves", "message", "--quick", "--out", tmp_path) == 1
    failed, *rest = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert "ZeroDivisionError" in failed["note"]
    assert rest[0]["ratio"] > 0


def test_an_unknown_name_is_an_error(capsys):
    with pytest.raises(SystemExit) as ended:
        run("speed")
    assert ended.value.code == 2
    assert "speed: no such benchmark" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("goal", "theirs", "most"), [("times", 2.0, 3.0), ("faster", 2.0, 0.2), ("more", 2.0, 5.0), ("within", 2.0, 1.0)]
)
def test_a_goal_is_met_up_to_its_limit(goal, theirs, most):
    from benchmarks import table

    chosen = {"times": table.times(1.5), "faster": table.faster(10), "more": table.more(3), "within": table.within(1)}
    assert table.Row("a", "b", chosen[goal], most, theirs).met is True
    assert table.Row("a", "b", chosen[goal], most * 1.01, theirs).met is False
    assert table.Row("a", "b", chosen[goal]).met is None


def test_a_federation_ends_with_the_bytes_of_the_loop_by_hand(federate, tiny_settings, tmp_path):
    from benchmarks.bare_loop import BareLoop

    settings = tiny_settings({"rounds.warm_start": 0, "rounds.evaluate_every": 0})
    *_, by_hand = BareLoop(settings).rounds()
    shared = federate(settings, tmp_path / "run").run.shared()
    assert all(torch.equal(shared[name], tensor) for name, tensor in by_hand.items())
