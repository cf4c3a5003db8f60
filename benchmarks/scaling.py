"""Time and memory as clients, images, rounds and parameters grow."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired

from benchmarks.table import Row, times
from benchmarks.timing import start

BATCH = 10
TURN = 0.25
"""Seconds of a turn."""
ROUNDS = ("rounds.distill=1", "rounds.finetune=2")
"""The last is evaluated on the whole test set, and is not run."""
MORE_CLIENTS = {
    "": (10_000, (10, 100, 1000), ()),
    "5 local epochs, ": (1_000, (1, 100), ("train.local_epochs=5",)),
    "CIFAR-100, ": (40_000, (10, 100, 1000), ("data.name=cifar100",)),
}
"""How many images how many clients share, in whole batches: what leaves a client one, and most of CIFAR-100."""
FEW = (10, 100)
"""Clients and images a client to which the others are compared."""
GROWN = {
    "4 times the images": (10, 400, *ROUNDS),
    "4 times the rounds": (10, 100, "rounds.distill=7", "rounds.finetune=5"),
    "9 times the parameters (resnet18, in place of the thin resnet20)": (
        10,
        100,
        *ROUNDS,
        "base.backbone=resnet18",
        "base.weights={weights}",
        "warm_start.weights=none",
    ),
}


def rows(quick: bool) -> Iterator[Row]:
    """Each in a process of its own: more images, rounds or parameters, then the same number of the same steps on more
    clients.
    """
    if not quick:
        small, *grown = _measure((*FEW, *ROUNDS), *GROWN.values())
        against = f"{FEW[0]} clients of {FEW[1]} images, 3 rounds"
        for what, found in zip(GROWN, grown, strict=True):
            yield Row(f"rounds, {what}", against, None, found["rounds"], small["rounds"])
            yield Row(f"memory, {what}", against, None, found["memory"], small["memory"], "MB")
    for of_each, (images, numbers, changes) in {"": (80, (2, 4), ())}.items() if quick else MORE_CLIENTS.items():
        of_few, *of_many = _measure(*((clients, images // clients, *ROUNDS, *changes) for clients in numbers))
        for clients, found in zip(numbers[1:], of_many, strict=True):
            against = f"{numbers[0]} of {images // numbers[0]:,} images"
            for what, limit, unit in (("rounds", 1.15, "s"), ("private start", None, "s"), ("memory", 1.2, "MB")):
                name = f"{what}, {of_each}{clients:,} clients of {images // clients:,} images, batch {BATCH}"
                yield Row(name, against, times(limit) if limit else None, found[what], of_few[what], unit)


def _measure(*runs: Sequence[object]) -> list[dict[str, float]]:
    """Seconds and megabytes of runs that take turns, from the end of their private start on, before which one runs
    after another: a machine whose speed changes is as fast for the rounds of each of them."""
    processes, turns = [], list[list[tuple[float, float]]]()
    try:
        for run in runs:
            began = time.perf_counter()
            processes.append(start(["-m", "benchmarks.scaling", *map(str, run)]))
            os.waitid(os.P_PID, processes[-1].pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            turns.append([(began, time.perf_counter())])
        while any(process.poll() is None for process in processes):
            for process, mine in zip(processes, turns, strict=True):
                began = time.perf_counter()
                process.send_signal(signal.SIGCONT)
                with suppress(TimeoutExpired):
                    process.wait(TURN)
                process.send_signal(signal.SIGSTOP)
                mine.append((began, time.perf_counter()))
    finally:
        for process in processes:
            process.kill()
    return [
        _measured(process.communicate()[0], process.returncode, mine)
        for process, mine in zip(processes, turns, strict=True)
    ]


def _measured(output: str, status: int, turns: Sequence[tuple[float, float]]) -> dict[str, float]:
    if status:
        raise RuntimeError(f"a run ended with status {status}: {output[-500:]}")
    told = json.loads(output.splitlines()[-1])
    first, *others = (sum(max(0.0, min(ended, b) - max(began, a)) for a, b in turns) for began, ended in told["spans"])
    return {"private start": first, "rounds": sum(others), "memory": told["memory"]}


def main() -> None:
    """In a process of its own: one run, and from when to when its rounds went."""
    import fed_rebel.launch  # noqa: F401 - sets Flower's environment before it is imported
    from benchmarks.federation import Watch, federation, run_inline
    from fed_rebel import tensor_file
    from fed_rebel.model.resnet import build_base_model
    from strategy.server import Rows

    spans: list[tuple[float, float]] = []

    class UntilTheLast(Watch):
        """Ends the run before its last round, in which every client looks at the whole test set."""

        def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
            if number + 1 == rounds:
                raise StopIteration
            super().round_began(number, rounds, stage, messages)

        def round_ended(self, rows: Rows) -> None:
            spans.append((self.began, time.perf_counter()))
            if len(spans) == 1:
                os.kill(os.getpid(), signal.SIGSTOP)  # until its first turn

    clients, samples, *changes = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, suppress(StopIteration):
        weights, watch = Path(folder) / "resnet18.safetensors", UntilTheLast()
        if any("{weights}" in change for change in changes):
            tensor_file.write(weights, build_base_model("resnet18", classes=100, seed=0).state_dict())
        changes = [change.format(weights=weights) for change in changes]
        settings = federation(int(clients), int(samples), f"train.batch_size={BATCH}", *changes)
        run_inline(settings, Path(folder) / "run", watch)
    print(json.dumps({"spans": spans, "memory": _peak_megabytes()}))


def _peak_megabytes() -> float:
    # Not `ru_maxrss`, which a process takes over from the one that started it.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


if __name__ == "__main__":
    main()
