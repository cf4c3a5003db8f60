"""The example that kills runs at random moments and resumes them."""

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_runs_that_are_killed_end_with_the_same_bytes(tmp_path):
    path = Path(__file__).parent.parent / "examples" / "kill_and_resume.py"
    spec = importlib.util.spec_from_file_location("kill_and_resume", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    kills = list(example.kill_and_resume(tmp_path, "inline", [0.35, 0.75]))  # in the first rounds, and in the last
    assert [kill.same for kill in kills] == [True, True]
    assert all(kill.moment.startswith("round ") for kill in kills)
