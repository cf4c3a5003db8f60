"""Time and memory as the same images are dealt to more clients."""

import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from benchmarks.table import Row, times
from benchmarks.timing import python

CLIENTS = (10, 100, 1000)
IMAGES, BATCH = 10_000, 10


def rows(quick: bool) -> list[Row]:
    """Each in a process of its own: the same number of the same steps."""
    numbers, images = ((2, 4), 80) if quick else (CLIENTS, IMAGES)
    found = {clients: _measure(clients, images) for clients in numbers}
    few = numbers[0]
    made = []
    for clients in numbers[1:]:
        size, against = f"{clients:,} clients of {images // clients} images, batch {BATCH}", f"{few} clients"
        for what, limit, unit in (("rounds", 1.15, "s"), ("private start", None, "s"), ("memory", 1.2, "MB")):
            goal = times(limit) if limit else None
            made.append(Row(f"{what}, {size}", against, goal, found[clients][what], found[few][what], unit))
    return made


def _measure(clients: int, images: int) -> dict[str, float]:
    finished = python(["-m", "benchmarks.scaling", str(clients), str(images // clients)])
    return json.loads(finished.output.splitlines()[-1]) | {"memory": finished.megabytes}


def main() -> None:
    """In a process of its own: one run, and how long its rounds took."""
    import fed_rebel.launch  # noqa: F401 - sets Flower's environment before it is imported
    from benchmarks.federation import Watch, federation, run_inline

    class UntilTheLast(Watch):
        """Ends the run before its last round, in which every client looks at the whole test set."""

        def round_began(self, number: int, rounds: int, stage: str, messages: int) -> None:
            if number + 1 == rounds:
                raise StopIteration
            super().round_began(number, rounds, stage, messages)

    clients, samples = map(int, sys.argv[1:])
    settings, watch = federation(clients, samples, f"train.batch_size={BATCH}"), UntilTheLast()
    with tempfile.TemporaryDirectory() as folder, suppress(StopIteration):
        run_inline(settings, Path(folder) / "run", watch)
    start, *rounds = watch.seconds
    print(json.dumps({"rounds": sum(rounds), "private start": start}))


if __name__ == "__main__":
    main()
