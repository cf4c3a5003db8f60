"""Reports on finished runs: the terminal table, the summary, figures and the HTML page, of one run and of several."""

from fed_rebel.report.comparison_page import write_comparison
from fed_rebel.report.comparison_table import comparison_table
from fed_rebel.report.grid import is_directory_of_runs, load_runs, read_runs
from fed_rebel.report.page import write_report
from fed_rebel.report.rounds import privacy, read_rounds
from fed_rebel.report.summary import summarise
from fed_rebel.report.table import clients_table

__all__ = [
    "clients_table",
    "comparison_table",
    "is_directory_of_runs",
    "load_runs",
    "privacy",
    "read_rounds",
    "read_runs",
    "summarise",
    "write_comparison",
    "write_report",
]
