"""Reports on a finished run: the terminal table, the summary, figures and the HTML page."""

from fed_rebel.report.page import write_report
from fed_rebel.report.summary import summarise
from fed_rebel.report.table import clients_table

__all__ = ["clients_table", "summarise", "write_report"]
