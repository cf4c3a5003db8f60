"""The ServerApp that Flower starts: where its run lies, and that it goes on with one that was begun."""

import pytest
from flwr.app import Context, RecordDict

from fed_rebel.launch.inline import InlineGrid
from fed_rebel.settings import SettingsError
from strategy.app import main

DISTILL = 2


@pytest.fixture
def serve(tiny_settings):
    """Run the ServerApp with some nodes: `serve(run, changes)`."""
    from clients.app import app as client_app

    def serve(run, changes=None):
        config = tiny_settings(changes).flat() | {"run": str(run)}
        grid = InlineGrid(client_app, 3, at_once=1)
        try:
            main(grid, Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config=config))
        finally:
            grid.close()

    return serve


def test_the_same_run_config_goes_on_with_a_run_that_was_begun(serve, stopped, finished, results):
    run = stopped(DISTILL)
    serve(run.path)
    assert results(run) == results(finished.run)
    assert (run.path / "report.html").exists()


def test_another_run_config_does_not(serve, stopped, results):
    run = stopped(DISTILL)
    with pytest.raises(SettingsError, match=r"was begun with early\.components = 2, not 3; name another place for it"):
        serve(run.path, {"early.components": 3})
    assert run.rounds_done == DISTILL + 1


def test_a_simulation_has_its_report_whatever_is_shared(serve, tmp_path):
    serve(tmp_path / "run", {"report.share": "none"})
    assert (tmp_path / "run" / "report.html").exists()
