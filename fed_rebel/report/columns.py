"""The columns of the table of clients, and how their numbers are written."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column: its key in clients.csv, its heading, and what turns a value into text."""

    key: str
    heading: str
    write: Callable[[float], str]

    def text(self, value: float) -> str:
        """The value as it is shown; a dash where it is undefined."""
        return self.write(value)

    def text_of_sd(self, value: float) -> str:
        """A standard deviation in the units of this column: never with a plus."""
        return self.text(value).removeprefix("+")


def _or_dash(write: Callable[[float], str]) -> Callable[[float], str]:
    @functools.wraps(write)
    def written(value: float) -> str:
        return "–" if math.isnan(value) else write(value)  # noqa: RUF001

    return written


@_or_dash
def count(value: float) -> str:
    """2000 as "2,000", a mean of 5.4 as "5.4"."""
    return f"{value:,.1f}".removesuffix(".0")


@_or_dash
def index(value: float) -> str:
    """A number in [0, 1], with two decimals."""
    return f"{value:.2f}"


@_or_dash
def percent(value: float) -> str:
    """A fraction in per cent, with one decimal and no sign for per cent."""
    return f"{100 * value:.1f}"


@_or_dash
def points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


CLIENT = Column("client", "client", count)
GINI = Column("gini", "Gini", index)
LOCAL = Column("local_acc", "local", percent)
REMOTE = Column("remote_acc", "remote", percent)
COVERAGE = Column("coverage", "coverage", percent)
ROUTED = (Column("overall_acc", "overall", percent), COVERAGE, Column("gain", "gain", points))
SHARD = (Column("train_size", "images", count), Column("classes", "classes", count), GINI)
ALL_QUERIES = (
    LOCAL,
    Column("local_acc_start", "local\nat start", percent),
    REMOTE,
    Column("remote_acc_prior", "remote\n+ prior", percent),
)
COLUMNS = (CLIENT, *SHARD, *ALL_QUERIES, *ROUTED)
"""Of the table for the terminal."""
AT_THRESHOLD = (
    COVERAGE,
    Column("local_acc_answered", "local,\nanswered", percent),
    Column("remote_acc_sent", "remote,\nsent", percent),
    Column("overall_acc", "overall", percent),
    Column("gain_from_server", "gain from\nthe server", points),
    Column("gain", "gain over\nremote", points),
)
"""What follows from which queries are answered alone."""
PAGE_COLUMNS = (CLIENT, *SHARD, *AT_THRESHOLD, *ALL_QUERIES)
"""Of the table on the page."""
