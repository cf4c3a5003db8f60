"""Go on with a run that was begun."""

from pathlib import Path

from fed_rebel.runs import RunDirectory, alone
from fed_rebel.settings import Settings
from fed_rebel.training.setup import prepare
from strategy.extras import check_installed


def reopen(path: Path) -> tuple[RunDirectory, Settings]:
    """A run that was begun, and its settings.

    Raises `ValueError` where it is not as it was left, or its data or device are not there any more; `SettingsError`
    where another process works on it.
    """
    run, settings = RunDirectory.open(path)
    with alone(run.path):
        run.check_whole(settings)
    check_installed(settings)
    run.check_same(prepare(settings).identity)
    return run, settings
