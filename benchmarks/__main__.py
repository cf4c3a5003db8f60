"""The table of benchmarks, as text and JSON.

python -m benchmarks                    # all of them
python -m benchmarks mixtures curves    # some
python -m benchmarks --quick            # all, on sizes that say nothing: to see that they work
"""

import argparse
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import fed_rebel.launch  # noqa: F401 - sets Flower's and Ray's environment before they are imported
from benchmarks.table import Row, machine, markdown, write

NAMES = (
    "command_line",
    "fixed_cost",
    "partition",
    "curves",
    "glyphs",
    "message",
    "mixtures",
    "distillation",
    "teacher",
    "evaluation",
    "federation",
    "on_ray",
    "scaling",
    "gpu",
)
"""The modules here with a function `rows(quick)`, the cheapest first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named, and print and write their table; status 1 where one of them failed."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="on small sizes")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="where table.md and table.json go")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in NAMES]:
        parser.error(f"{unknown[0]}: no such benchmark; allowed are {', '.join(NAMES)}")
    about, rows, failed = machine(), [], False
    for name in given.names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            for row in import_module(f"benchmarks.{name}").rows(given.quick):
                print(f"  {row.name}: {_said(row)}", file=sys.stderr, flush=True)
                rows.append(row)
        except Exception as error:  # the others are worth having
            rows.append(Row(name, "-", note=f"failed: {type(error).__name__}: {error}"))
            failed = True
            print(f"  {name}: {rows[-1].note}", file=sys.stderr, flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        write(given.out, rows, about)  # after each: a run may be stopped
    print(markdown(rows, about), end="")
    print(f"table: {given.out / 'table.md'}, {given.out / 'table.json'}", file=sys.stderr)
    return int(failed)


def _said(row: Row) -> str:
    if row.ratio is None:
        return row.note
    return f"{row.ratio:.3g}" + (f", goal {row.goal.text}" if row.goal else "")


if __name__ == "__main__":
    sys.exit(main())
