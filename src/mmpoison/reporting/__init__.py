"""Reports of finished runs: tables for the terminal, in Markdown and as JSON, and one HTML page that opens offline."""

from mmpoison.reporting.compare import compare_models, compare_runs
from mmpoison.reporting.filter_page import (
    write_curve_figure,
    write_distance_figure,
    write_filter_page,
)
from mmpoison.reporting.html_report import render_html, render_runs_html, write_html, write_report
from mmpoison.reporting.repair import repair_table, write_repair_figures
from mmpoison.reporting.runs import expand
from mmpoison.reporting.seeds import (
    metrics_tables,
    seed_tables,
    summary_json,
    summary_markdown,
    summary_table,
)
from mmpoison.reporting.table import Column, Table, markdown
from mmpoison.reporting.terminal_tables import terminal
from mmpoison.reporting.terminal_view import terminal_table
from mmpoison.reporting.text import safe_text
from mmpoison.reporting.tidy import results_table, write_results

__all__ = [
    "Column",
    "Table",
    "compare_models",
    "compare_runs",
    "expand",
    "markdown",
    "metrics_tables",
    "render_html",
    "render_runs_html",
    "repair_table",
    "results_table",
    "safe_text",
    "seed_tables",
    "summary_json",
    "summary_markdown",
    "summary_table",
    "terminal",
    "terminal_table",
    "write_curve_figure",
    "write_distance_figure",
    "write_filter_page",
    "write_html",
    "write_repair_figures",
    "write_report",
    "write_results",
]
