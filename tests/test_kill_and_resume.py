"""The example that kills runs at random moments and resumes them."""

import runpy
from pathlib import Path

import pytest

from fed_rebel.settings import load
from strategy.plan import plan


@pytest.mark.slow(120)
def test_runs_that_are_killed_end_with_the_same_bytes(tmp_path):
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "kill_and_resume.py"))
    parts = len(plan(load(example["write_settings"](tmp_path, "inline")))) + 2
    begun = 0.05  # of a part: rounds are shorter than the command's start, and than a part
    moments = [(2 + begun) / parts, (parts - 2 + begun) / parts]  # in the second round, and in the last
    kills = list(example["kill_and_resume"](tmp_path, "inline", moments))
    assert [kill.same for kill in kills] == [True, True]
    assert all(kill.moment.startswith("round ") for kill in kills)
