"""Output of the command line: consoles, single lines, progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer
from rich.console import Console

from mmpoison.api.progress import LiveProgress, console_progress
from mmpoison.base.phrasing import printable_line
from mmpoison.base.processes import is_main_process
from mmpoison.reporting.text import visible

SEEDS = 2**63 - 1
"""The largest seed."""
WORKERS = 4096
"""The most processes or threads of one command."""

Format = Literal["table", "markdown", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
]

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


@contextmanager
def live_progress(*, on_stderr: bool = False) -> Iterator[LiveProgress]:
    """Show progress on the terminal while the block runs.

    Args:
        on_stderr: Use standard error, if a program reads standard output.
    """
    with console_progress(stderr_console() if on_stderr else console) as progress:
        yield progress


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show that work of unknown length goes on; nothing if standard error is not a terminal."""
    shown = stderr_console()
    if not shown.is_terminal:
        yield
        return
    with shown.status(visible(what)):
        yield
