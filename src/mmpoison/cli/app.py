"""The command-line application: its verbs, errors and warnings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import TextIO

import typer
from typer.exceptions import TyperException

from mmpoison._version import __version__
from mmpoison.base.processes import end_processes
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
    scan,
    search,
    sterilize,
    sweep,
    train,
)
from mmpoison.cli import (
    filter as filter_verb,
)
from mmpoison.cli.console import say, stderr
from mmpoison.errors import AlreadyDone, MmpoisonWarning

app = typer.Typer(
    name="mmpoison",
    help="Study, measure and defeat data poisoning of multimodal encoders such as CLIP.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 no usable result or a failure, 2 bad input or a full disk, 130 Ctrl-C, 143 SIGTERM. "
    "The stack trace of a bug is saved to a file in the cache folder; MMPOISON_TRACEBACK=1 prints it.",
)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.add_typer(cache.app, name="cache")
VERBS: tuple[Callable[..., None], ...] = (
    run.demo,
    run.run,
    sweep.sweep,
    poison.poison,
    train.train,
    scan.scan,
    filter_verb.filter_,
    defenses.defenses,
    review.review,
    sterilize.sterilize,
    evaluate.evaluate,
    report.report,
    search.search,
)
"""The verbs in the order of the help."""
for verb in VERBS:
    app.command(verb.__name__.rstrip("_"))(verb)


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


def run_command() -> int:
    """Run the command line once; an error of usage is one line.

    Returns:
        The exit code.
    """
    warnings.showwarning = _show_warning
    code: object = 0
    try:
        # standalone mode would draw a box of several lines around typer's own errors
        code = app(standalone_mode=False)
        end_processes()
    except AlreadyDone as done:
        say(str(done))
        end_processes()
    except TyperException as error:
        if "NoArgs" in type(error).__name__:  # a group without a verb: the message is its help
            typer.echo(error.format_message())
        else:
            # typer's own types begin their reasons with this
            reason = error.format_message().replace("Value error, ", "")
            stderr(f"mmpoison: {reason} (see --help)")
        return 2
    return code if isinstance(code, int) else 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show our own warnings as one line without a place in our code; others as Python does."""
    if issubclass(category, MmpoisonWarning):
        stderr(f"mmpoison: warning: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))
