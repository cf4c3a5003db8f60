"""Time and memory as clients, images, rounds and parameters grow."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.table import Row, times
from benchmarks.timing import python

BATCH = 10
ROUNDS = ("rounds.distill=1", "rounds.finetune=2")
"""The last is evaluated on the whole test set, and is not run."""
MORE_CLIENTS = {
    ", 5 local epochs": ((1, 100), 1_000, (*ROUNDS, "train.local_epochs=5")),
    "": ((10, 100, 1000), 10_000, ROUNDS),
}
"""How many clients share how many images, and the rounds."""
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
    """Each in a process of its own: the same number of the same steps on more clients, then more of all else."""
    for of_each, (numbers, images, changes) in MORE_CLIENTS.items():
        if quick:
            numbers, images = (2, 4), 80
        few, *many = numbers
        of_few = _measure(few, images // few, *changes)
        for clients in many:
            found, size = _measure(clients, images // clients, *changes), f"{images // clients} images{of_each}"
            for what, limit, unit in (("rounds", 1.15, "s"), ("private start", None, "s"), ("memory", 1.2, "MB")):
                name, goal = f"{what}, {clients:,} clients of {size}, batch {BATCH}", times(limit) if limit else None
                yield Row(name, f"{few} client{'s' * (few > 1)}", goal, found[what], of_few[what], unit)
    if quick:
        return
    small = _measure(*FEW, *ROUNDS)
    against = f"{FEW[0]} clients of {FEW[1]} images, 3 rounds"
    for what, (clients, samples, *changes) in GROWN.items():
        grown = _measure(clients, samples, *changes)
        yield Row(f"rounds, {what}", against, None, grown["rounds"], small["rounds"])
        yield Row(f"memory, {what}", against, None, grown["memory"], small["memory"], "MB")


def _measure(clients: int, samples: int, *changes: str) -> dict[str, float]:
    finished = python(["-m", "benchmarks.scaling", str(clients), str(samples), *changes])
    measured: dict[str, float] = json.loads(finished.output.splitlines()[-1])
    return measured


def main() -> None:
    """In a process of its own: one run, and how long its rounds took."""
    import fed_rebel.launch  # noqa: F401 - sets Flower's environment before it is imported
    from benchmarks.federation import Watch, federation, run_inline
    from fed_rebel import tensor_file
    from fed_rebel.model.resnet import build_base_model

    class UntilTheLast(Watch):
        """Ends the run before its last round, in which every client looks at the whole test set."""

        def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
            if number + 1 == rounds:
                raise StopIteration
            super().round_began(number, rounds, stage, messages)

    clients, samples, *changes = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, suppress(StopIteration):
        weights, watch = Path(folder) / "resnet18.safetensors", UntilTheLast()
        if any("{weights}" in change for change in changes):
            tensor_file.write(weights, build_base_model("resnet18", classes=100, seed=0).state_dict())
        changes = [change.format(weights=weights) for change in changes]
        settings = federation(int(clients), int(samples), f"train.batch_size={BATCH}", *changes)
        run_inline(settings, Path(folder) / "run", watch)
    start, *rounds = watch.seconds
    print(json.dumps({"rounds": sum(rounds), "private start": start, "memory": _peak_megabytes()}))


def _peak_megabytes() -> float:
    # Not `ru_maxrss`, which a process takes over from the one that started it.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


if __name__ == "__main__":
    main()
