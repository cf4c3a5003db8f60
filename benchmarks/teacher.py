"""Where the same views of an image come again, Head's features could be kept; what that would save."""

from benchmarks.table import Row


def rows(quick: bool) -> list[Row]:
    """Every epoch draws new crops, so there is nothing to keep yet."""
    note = "not there: every step crops anew, so Head is computed in each"
    return [Row("teacher features kept", "computing Head anew in each step", note=note)]
