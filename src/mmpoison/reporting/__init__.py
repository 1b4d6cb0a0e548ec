"""A finished run, shown: a table for the terminal and one HTML page that opens offline."""

from mmpoison.reporting._html import render_html, write_report
from mmpoison.reporting._seeds import summary_markdown, summary_table
from mmpoison.reporting._terminal import terminal_table
from mmpoison.reporting._text import safe_text

__all__ = [
    "render_html",
    "safe_text",
    "summary_markdown",
    "summary_table",
    "terminal_table",
    "write_report",
]
