"""The example that kills runs at random moments and resumes them."""

import runpy
from pathlib import Path

import pytest


@pytest.mark.slow(120)
def test_runs_that_are_killed_end_with_the_same_bytes(tmp_path):
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "kill_and_resume.py"))
    kills = list(example["kill_and_resume"](tmp_path, "inline", [0.35, 0.75]))  # in the second round, and in the last
    assert [kill.same for kill in kills] == [True, True]
    assert all(kill.moment.startswith("round ") for kill in kills)
