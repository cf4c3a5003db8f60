"""One run of a sweep, in a process of its own: `python -m fed_rebel.launch.sweep_run RUN ENGINE CLIENTS_AT_ONCE`.

It ends when its standard input does, so with the sweep, however that ends.
"""

import _thread
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from rich.console import Console

from fed_rebel.ending import end_process
from fed_rebel.launch.progress import ProgressDisplay
from fed_rebel.launch.simulation import run
from fed_rebel.report import write_report
from fed_rebel.settings import Settings
from strategy.reopen import reopen

PATIENCE = 5.0
"""Seconds for Ray to stop its actors."""


def go_on(path: Path, engine: str, clients_at_once: int) -> None:
    """Run what is left of a run that was begun, with this share of the cores, and write its report."""
    directory, begun = reopen(path)
    settings = Settings.from_flat(begun.flat() | {"engine.kind": engine, "engine.clients_at_once": clients_at_once})
    with ProgressDisplay(Console(stderr=True)) as display:
        run(settings, directory, display)
    write_report(path)


def _end_with_the_sweep() -> None:
    os.read(0, 1)  # nothing is ever written; a buffered read would hold a lock that Python's own end waits for
    _thread.interrupt_main()
    time.sleep(PATIENCE)
    os._exit(130)  # clients that are at work would be waited for


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    try:
        go_on(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    except KeyboardInterrupt:
        os._exit(130)
    except Exception as error:
        traceback.print_exc()
        print(str(error).strip() or type(error).__name__, file=sys.stderr)
        end_process(1)
    end_process(0)
