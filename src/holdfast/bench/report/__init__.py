"""Records -> tables, exports and one HTML file. A report is made from records alone; nothing here trains."""

from holdfast.bench.report.columns import METRICS, Estimate, Metric, PublishedValue
from holdfast.bench.report.page import render, write
from holdfast.bench.report.summary import BOUNDS, CONTROLS, Group, SummaryRow, groups, rows
from holdfast.bench.report.tables import Cell, TextTable, text_table, to_csv, to_latex, to_markdown

__all__ = [
    "BOUNDS",
    "CONTROLS",
    "METRICS",
    "Cell",
    "Estimate",
    "Group",
    "Metric",
    "PublishedValue",
    "SummaryRow",
    "TextTable",
    "groups",
    "render",
    "rows",
    "text_table",
    "to_csv",
    "to_latex",
    "to_markdown",
    "write",
]
