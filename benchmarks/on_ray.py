"""A whole command on Ray, two actors of one thread, against a hand-written loop with two threads."""

import tempfile
from pathlib import Path

from benchmarks.bare_loop import BareLoop
from benchmarks.federation import command, federation, timed_rounds
from benchmarks.table import Row, times
from benchmarks.timing import python, threads


def rows(quick: bool) -> list[Row]:
    """From the command to its end, evaluations, files and report with it."""
    clients, samples, epochs = (2, 64, 1) if quick else (20, 750, 3)
    settings = federation(
        clients, samples, f"train.local_epochs={epochs}", "engine.kind=ray", "engine.clients_at_once=2"
    )
    with tempfile.TemporaryDirectory() as folder:
        whole = python(command(settings, Path(folder) / "run"))
    with threads(2):
        bare = [took for took, _ in timed_rounds(BareLoop(settings))]
    size = f"{clients} clients of {samples} images, {epochs} local epochs, {settings.base.backbone}"
    name = f"a command on Ray, two actors of one thread, 6 rounds and 2 evaluations, {size}"
    return [Row(name, "a hand-written loop of the local steps, two threads", times(1), whole.seconds, sum(bare))]
