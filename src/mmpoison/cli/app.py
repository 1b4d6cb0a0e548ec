"""The application: its verbs, and what happens when something goes wrong."""

from __future__ import annotations

import sys

import typer

from mmpoison._version import __version__
from mmpoison.cli import data, run, stages
from mmpoison.cli.console import stderr
from mmpoison.errors import InputError, ResultError

app = typer.Typer(
    name="mmpoison",
    help="Study, measure and defeat data poisoning of multimodal encoders (CLIP and its kin).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
run.add_commands(app)
stages.add_commands(app)


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
    try:
        app()
    except InputError as error:
        stderr(f"mmpoison: {error}")
        sys.exit(2)
    except ResultError as error:
        stderr(f"mmpoison: {error}")
        sys.exit(1)
    except OSError as error:
        # a full disk, a folder that may not be written: the system's own words say which
        stderr(f"mmpoison: {error.strerror or error}: {error.filename or ''}".rstrip(": "))
        sys.exit(2)
    except SystemExit as stop:
        # typer turns an interrupt into this code, without a word
        if stop.code == 130:
            stderr("mmpoison: stopped; the same command goes on where it was")
        raise
