"""The application: its verbs, and what happens when something goes wrong."""

from __future__ import annotations

import sys
import warnings
from typing import TextIO

import typer
from typer.exceptions import TyperException

from mmpoison._version import __version__
from mmpoison.cli import (
    cache,
    data,
    defenses,
    evaluate,
    models,
    poison,
    report,
    review,
    run,
    search,
    stages,
    sterilize,
    sweep,
)
from mmpoison.cli.console import stderr
from mmpoison.errors import InputError, MmpoisonWarning, ResultError
from mmpoison.files import disk_is_full
from mmpoison.processes import end_processes

INTERRUPTED = 130

app = typer.Typer(
    name="mmpoison",
    help="Study, measure and defeat data poisoning of multimodal encoders (CLIP and its kin).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(cache.app, name="cache")
run.add_commands(app)
sweep.add_commands(app)
poison.add_commands(app)
stages.add_commands(app)
defenses.add_commands(app)
review.add_commands(app)
sterilize.add_commands(app)
evaluate.add_commands(app)
report.add_commands(app)
search.add_commands(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmpoison {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    warnings.showwarning = _show_warning
    try:
        # not standalone: typer would draw a box of several lines around its own errors
        code = app(standalone_mode=False)
        end_processes()
    except TyperException as error:
        if "NoArgs" in type(error).__name__:  # a group without a verb: its help is the message
            typer.echo(error.format_message())
        else:
            # typer puts this before the reasons of its own types
            said = error.format_message().replace("Value error, ", "")
            stderr(f"mmpoison: {said} (--help says more)")
        sys.exit(2)
    except InputError as error:
        stderr(f"mmpoison: {error}")
        sys.exit(2)
    except ResultError as error:
        stderr(f"mmpoison: {error}")
        sys.exit(1)
    except OSError as error:
        # a full disk, a folder that may not be written: the system's own words say which
        what = "the disk is full: make room" if disk_is_full(error) else error.strerror or error
        stderr(f"mmpoison: {what}: {error.filename or ''}".rstrip(": "))
        sys.exit(2)
    if code == INTERRUPTED:
        stderr("mmpoison: stopped; the same command goes on where it was")
    sys.exit(code if isinstance(code, int) else 0)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings as one line without a place in our code; others as Python shows them."""
    if issubclass(category, MmpoisonWarning):
        stderr(f"mmpoison: warning: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))
