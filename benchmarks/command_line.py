"""What a person waits for who asks for help, or mistypes a setting."""

from statistics import median

from benchmarks.table import Row, more
from benchmarks.timing import seconds, start

COMMANDS = {
    "fed-rebel --help": ["--help"],
    "a settings error": ["simulate", "--set", "partition.alpha=none"],
    "an unknown preset": ["simulate", "--preset", "nowhere"],
}


def rows(quick: bool) -> list[Row]:
    """Each command against a Python that does nothing, the median of their turns."""
    found = []
    for name, arguments in COMMANDS.items():
        turns = [
            (seconds(lambda: _end(["-m", "fed_rebel.cli", *arguments])), seconds(lambda: _end(["-c", "pass"])))  # noqa: B023
            for _ in range(2 if quick else 9)
        ]
        ours, theirs = (median(turn) for turn in zip(*turns, strict=True))
        found.append(Row(name, "python -c pass", more(0.3), ours, theirs))
    return found


def _end(arguments: list[str]) -> None:
    start(arguments).communicate()
