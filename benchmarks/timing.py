"""Two things timed in turn, so that whatever else the machine does slows both alike."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, *, warm: bool = True
) -> tuple[float, float]:
    """The fastest of so many calls of each, in seconds, called A B A B; with `warm` each is called once before."""
    if warm:
        ours(), theirs()
    found = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    return min(a for a, _ in found), min(b for _, b in found)


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Finished:
    """A process that ended."""

    seconds: float
    """From its start."""
    megabytes: float
    """The most that its memory was."""
    cpu_seconds: float
    """Of its own, without the processes that it started."""
    output: str


def python(arguments: Sequence[str | Path], environment: dict[str, str] | None = None) -> Finished:
    """Run this Python with arguments, to its end. Raises `RuntimeError` with the last it said where it fails."""
    began = time.perf_counter()
    process = start(arguments, environment)
    ended = wait(process, began)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))[:200]}: status {process.returncode}: {ended.output[-500:]}")
    return ended


def wait(process: "subprocess.Popen[str]", began: float) -> Finished:
    """The end of a process that `start` started."""
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Finished(time.perf_counter() - began, used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, output)


def start(arguments: Sequence[str | Path], environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    """Start this Python on this code."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    surroundings: dict[str, Any] = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | (environment or {})
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
