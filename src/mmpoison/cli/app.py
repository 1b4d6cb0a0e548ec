"""The command-line application: its verbs, errors and warnings."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from functools import cache as once
from typing import Any, TextIO

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from mmpoison._version import __version__
from mmpoison.base.processes import end_processes
from mmpoison.cli.console import console, say, stderr
from mmpoison.cli.verb import START, PlainGroup, PlainTyper
from mmpoison.errors import AlreadyDone, MmpoisonNotice, MmpoisonWarning

GROUPS: Mapping[str, Mapping[str, str]] = {
    "Start": {"demo": "run", "run": "run"},
    "Data": {"data": "data"},
    "Attack": {"poison": "poison"},
    "Train and measure": {"models": "models", "train": "train", "evaluate": "evaluate"},
    "Defend": {
        "scan": "scan",
        "review": "review",
        "check": "check",
        "sterilize": "sterilize",
        "defenses": "defenses",
    },
    "Inspect": {"report": "report", "search": "search", "cache": "cache"},
}
"""Verbs in the order of the help, each with its module; a verb group is its module's `app`."""
VERBS = {verb: (panel, module) for panel, verbs in GROUPS.items() for verb, module in verbs.items()}


class _Root(PlainGroup):
    """The application; a command imports only the module of its verb."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return command_of(cmd_name) if cmd_name in VERBS else None


@once
def command_of(name: str) -> Any:
    """Return the command of a verb or verb group."""
    panel, place = VERBS[name]
    module = importlib.import_module(f"mmpoison.cli.{place}")
    group: PlainTyper | None = getattr(module, "app", None)
    if group is None:
        group = PlainTyper(rich_markup_mode="rich")
        group.command(name)(getattr(module, name))
    command = get_command(group)
    vars(command).update(name=name, rich_help_panel=panel)
    return command


app = PlainTyper(
    name="mmpoison",
    cls=_Root,
    add_completion=True,
    help="Study, measure and defeat data poisoning of multimodal encoders such as CLIP.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 no usable result or a failure, 2 bad input or a full disk, 130 Ctrl-C, 143 SIGTERM. "
    "The stack trace of a bug is saved to a file in the cache folder; MMPOISON_TRACEBACK=1 prints it.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmpoison {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    if context.invoked_subcommand is None:
        console.print(START, highlight=False, soft_wrap=True)
        # no command was given: scripts must see a failure
        raise typer.Exit(2)


_noticed: set[str] = set()
"""Notices that this command has printed."""


@once
def _command() -> Any:
    # takes 30 ms; cached for processes that run many commands, such as the tests
    return get_command(app)


MOVED = {
    "No such command 'filter'": "it is part of `mmpoison scan` now",
    "No such command 'sweep'": "it is part of `mmpoison run` now",
    "No such option: --format": "use --as FORMAT or --json; for `models export`, --to FORMAT",
    "No such option: --goal": "for `run`, use --goals A2B, or A2B+C2D for several at once",
    "No such option: --mode": "for `run`, use --set attack.mode=add or replace",
    "No such option: --preset": "for `run`, use --set preset=NAME",
    "No such option: --study": "for `run`, use --set study=NAME",
    "No such option: --option": "for `run`, use --set data.options.KEY=VALUE",
    "No such option: --retries": "a crashed run is retried once",
    "No such option: --as": "for `run`, use --json, or `mmpoison report --as`",
    "No such option: --list": "`mmpoison run` alone lists the recipes",
    "No such option: --suspect": "use `mmpoison check`",
    "No such option: --trust": "a checkpoint's code is never run",
    "No such option: --no-stop": "a repair always runs all its steps",
}
"""Hints for verbs and options of 0.1 that no longer exist."""


def run_command() -> int:
    """Run the command line once; a usage error is printed as one line.

    Returns:
        The exit code.
    """
    warnings.showwarning = _show_warning
    _noticed.clear()
    code: object = 0
    try:
        # standalone mode would draw a box of several lines around typer's own errors
        code = _command()(standalone_mode=False, prog_name="mmpoison")
    except AlreadyDone as done:
        say(str(done))
    except TyperException as error:
        if "NoArgs" in type(error).__name__:  # a group without a verb: the message is its help
            typer.echo(error.format_message())
        else:
            # typer's own types add this prefix
            reason = error.format_message().replace("Value error, ", "")
            moved = next((now for was, now in MOVED.items() if was in reason), "see --help")
            stderr(f"mmpoison: {reason} ({moved})")
        return 2
    end_processes()
    return code if isinstance(code, int) else 0


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print mmpoison's warnings as one line without a code location; others as Python does."""
    if issubclass(category, MmpoisonWarning):
        stderr(f"mmpoison: warning: {message}")
    elif issubclass(category, MmpoisonNotice):
        _notice(str(message))
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _notice(message: str) -> None:
    """Print each notice only once, although a command may read data several times."""
    if message not in _noticed:
        _noticed.add(message)
        stderr(f"mmpoison: {message}")
