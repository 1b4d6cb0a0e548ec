"""How the command line shows where a long job is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer
from rich.console import Console

from mmpoison.api.progress import LiveProgress, console_progress
from mmpoison.base.processes import is_main_process
from mmpoison.reporting.text import visible

SEEDS = 2**63 - 1
"""The largest seed."""
WORKERS = 4096
"""The most processes or threads of one command."""

Format = Literal["table", "markdown", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda or cuda:N.")
]

# of several processes only the first one speaks
console = Console(quiet=not is_main_process())


def aside() -> Console:
    """A console on standard error, for what is said while standard output is for a program to read."""
    return Console(stderr=True, quiet=not is_main_process())


def echo(text: str) -> None:
    """Text on standard output as it is, whatever the width of the terminal."""
    if is_main_process():
        typer.echo(text, nl=not text.endswith("\n"))


def say(line: str) -> None:
    """One line on standard output as long as it is; names in it come from data and are only shown."""
    console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def stderr(line: str) -> None:
    """One line on standard error, without control characters that its data may hold."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    sys.stderr.write(plain + "\n")


@contextmanager
def monitor(*, on_stderr: bool = False) -> Iterator[LiveProgress]:
    """A monitor that draws on the terminal while the block runs.

    Args:
        on_stderr: Draw on standard error, where standard output is for a program to read.
    """
    with console_progress(aside() if on_stderr else console) as progress:
        yield progress


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show that something goes on whose length is not known; nothing where nobody watches standard error."""
    where = aside()
    if not where.is_terminal:
        yield
        return
    with where.status(visible(what)):
        yield
