"""Output of the command line: consoles, single lines, tables, progress bars."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.status import Status

from mmpoison.api.progress import LiveProgress, console_progress
from mmpoison.base.phrasing import printable_line
from mmpoison.base.processes import is_main_process
from mmpoison.reporting.text import visible

if TYPE_CHECKING:
    from mmpoison.cli.options import Format
    from mmpoison.reporting.table import Table

# of several processes only the first one prints
console = Console(quiet=not is_main_process())


def stderr_console() -> Console:
    """Return a console on standard error, for commands whose standard output a program reads."""
    return Console(stderr=True, quiet=not is_main_process())


def echo(text: str) -> None:
    """Print text on standard output unchanged, whatever the width of the terminal."""
    if is_main_process():
        typer.echo(text, nl=not text.endswith("\n"))


def say(line: str) -> None:
    """Print one line on standard output, unwrapped; markup and control characters are not interpreted."""
    console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def stderr(line: str) -> None:
    """Print one line on standard error, without control characters."""
    sys.stderr.write(printable_line(line) + "\n")


def live_progress(*, on_stderr: bool = False) -> AbstractContextManager[LiveProgress]:
    """Show progress on the terminal while the block runs.

    Args:
        on_stderr: Use standard error, if a program reads standard output.
    """
    return console_progress(stderr_console() if on_stderr else console)


def busy(what: str) -> Status:
    """Show that work of unknown length goes on, while the block runs; nothing if standard error is not a terminal."""
    return stderr_console().status(visible(what))


def print_tables(tables: Sequence[Table], form: Format, *, whole: bool = False) -> None:
    """Print tables on standard output: drawn, or as a program reads them.

    Args:
        tables: What to print.
        form: How.
        whole: Draw every column and the intervals too; what a program reads always has them.
    """
    from mmpoison.reporting.formats import WRITERS
    from mmpoison.reporting.terminal_tables import terminal

    if form == "table":
        console.print(terminal(tables, whole=whole))
    else:
        echo(WRITERS[form](tables))
