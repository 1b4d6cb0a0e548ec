"""Output of the command line: consoles, single lines, tables, progress bars."""

from __future__ import annotations

import json
import os
import shlex
import sys
import webbrowser
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from mmpoison.api.progress import LiveProgress, console_progress
from mmpoison.base.extras import require
from mmpoison.base.files import (
    check_output,
    held_output,
    input_state,
    output_record,
    refuse_address,
)
from mmpoison.base.processes import is_main_process
from mmpoison.base.text import count_of, printable_line, visible

if TYPE_CHECKING:
    from mmpoison.cli.options import Format
    from mmpoison.reporting.table import Table


# -- Locks the output folder of a verb, and recognises the output of an identical earlier command.


def hold_output(context: typer.Context, out: Path, *, work: Path | None = None) -> None:
    """Lock the output folder of a verb until the verb ends.

    Args:
        context: Context of the verb; its options identify the output.
        out: The folder.
        work: Folder of the verb's unfinished work.

    Raises:
        AlreadyDone: If the same command has already written it from the same inputs.
        InputError: If `out` is the address of an object store, contains anything else, or is being
            written by another process.
    """
    refuse_address(out)
    made_by: dict[str, Any] = {
        "command": context.info_name,
        "options": {name: value for name, value in context.params.items() if name != "out"},
        "inputs": [input_state(path, without=out) for path in _inputs(context, out)],
        "data": os.environ.get("MMPOISON_DATA"),
    }
    if is_main_process():
        context.with_resource(held_output(out, made_by, work=work))
    else:
        check_output(out, output_record(made_by))


def _inputs(context: typer.Context, out: Path) -> list[Path]:
    """List the option values that are existing paths, sorted by option name."""
    found = []
    for name, value in sorted(context.params.items()):
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if name in ("out", "kept") or not isinstance(one, (str, Path)):
                continue  # an output is not an input
            try:
                if one != "" and Path(one).exists():
                    found.append(Path(one))
            except (OSError, ValueError):
                continue  # not a path
    return found


# if there are several processes, only the main one prints
console = Console(quiet=not is_main_process())


def stderr_console() -> Console:
    """Return a console on standard error, for commands whose standard output a program reads."""
    return Console(stderr=True, quiet=not is_main_process())


def echo(text: str) -> None:
    """Print text on standard output unchanged, whatever the terminal's width."""
    if is_main_process():
        typer.echo(text, nl=not text.endswith("\n"))


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    echo(json.dumps(value, indent=2))


def print_entries(entries: Iterable[tuple[str, str]]) -> None:
    """Print names with their descriptions, without cutting anything."""
    table = Grid.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in entries:
        table.add_row(Text(name), Text("\n".join(map(visible, text.split("\n")))))
    console.print(table, highlight=False)


def say(line: str) -> None:
    """Print one line on standard output, unwrapped; markup and control characters are not interpreted."""
    console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def stderr(line: str) -> None:
    """Print one line on standard error, without control characters."""
    sys.stderr.write(printable_line(line) + "\n")


def live_progress(*, on_stderr: bool = False) -> AbstractContextManager[LiveProgress]:
    """Show progress on the terminal while the block runs.

    Args:
        on_stderr: Use standard error, because a program reads standard output.
    """
    return console_progress(stderr_console() if on_stderr else console)


def busy(what: str) -> AbstractContextManager[LiveProgress]:
    """Show work of unknown length while the block runs, if standard error is a terminal."""
    return console_progress(stderr_console(), what)


def print_tables(tables: Sequence[Table], form: Format, *, whole: bool = False) -> None:
    """Print tables on standard output, drawn or in a format for programs.

    Args:
        tables: The tables.
        form: Output format.
        whole: Also draw all columns and intervals, which the other formats always have.
    """
    from mmpoison.reporting.terminal_tables import WRITERS, terminal

    if form == "table":
        console.print(terminal(tables, whole=whole))
    else:
        echo(WRITERS[form](tables))


# -- Options and messages shared by all verbs with a local page.


DEFAULT_PORT = 8747


def check_pages(verb: str) -> None:
    """Check early that the packages for local pages are installed.

    Raises:
        InputError: If one is missing.
    """
    for package in ("fastapi", "uvicorn"):
        require(package, f"mmpoison {verb} needs the extra 'search' ({package})")


def announce(address: str, *, open_it: bool, what: str = "Ctrl-C stops it") -> None:
    """Print the page's address; with `open_it`, open it too if there is a graphical browser."""
    say(f"{address}   ({what})")
    if open_it:
        open_in_browser(address)


def open_in_browser(address: str) -> None:
    """Open a page if there is a graphical browser."""
    if _has_screen():
        try:
            webbrowser.open(address)
        except (webbrowser.Error, OSError):
            return


def _has_screen() -> bool:
    """Return whether there is a graphical browser; a text browser would take over the terminal."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def print_first(
    tables: Sequence[Table], form: Format, *, whole: bool = False, rest: str = "--all"
) -> None:
    """Print tables; a terminal shows only the first ones and how to see the rest.

    Args:
        tables: All tables.
        form: Output format.
        whole: Print all tables on a terminal too.
        rest: Option or command that prints the rest.
    """
    from mmpoison.reporting.terminal_tables import first_tables, hides

    first = tables if whole or form != "table" else first_tables(tables)
    print_tables(first, form, whole=whole)
    if form == "table" and not whole:
        say_the_rest(len(tables) - len(first), hides(first), rest)


def say_the_rest(tables: int, columns: bool, rest: str) -> None:
    """Print which tables, columns and intervals were left out, and what shows them.

    Args:
        tables: Number of tables left out.
        columns: Whether columns or intervals were left out.
        rest: Option or command that prints the rest.
    """
    more = [count_of(tables, "more table")] if tables else []
    more += ["all columns and intervals"] if columns else []
    if more:
        say(f"{', '.join(more)}: {rest}")


def command_for_all(runs: Sequence[Path]) -> str:
    """Return the command that prints all tables of the runs."""
    return shlex.join(["mmpoison", "report", *map(str, runs), "--all"])
