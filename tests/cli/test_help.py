"""Every verb explains itself, and says nothing it does not mean."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mmpoison
from mmpoison import __version__
from mmpoison.cli.app import VERBS, command_of
from mmpoison.cli.console import console
from mmpoison.cli.verb import declared
from mmpoison.runs.recipe_files import list_recipes, recipe_files


def named(path: tuple[str, ...]) -> Any:
    """Return the command of a verb, such as `scan` or `data list`."""
    command = command_of(path[0])
    return command.commands[path[1]] if path[1:] else command


def paths() -> Iterator[tuple[str, ...]]:
    """All verbs that are no groups."""
    for name in VERBS:
        inside = getattr(command_of(name), "commands", {})
        yield from ((name, verb) for verb in inside) if inside else [(name,)]


PATHS = sorted(paths())


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_has_an_example(cli: Callable[..., Any], path: tuple[str, ...]) -> None:
    result = cli(*path, "--help")
    assert result.code == 0
    assert result.err == ""
    text = " ".join(result.out.replace("│", " ").split())
    assert f"Example: mmpoison {' '.join(path)}" in text
    # markup is rendered, not shown
    assert "[bold]" not in text
    assert cli(*path, "-h").out == result.out


def test_commands_are_in_groups(cli: Callable[..., Any]) -> None:
    text = cli("--help").out
    groups = ("Start", "Data", "Attack", "Train and measure", "Defend", "Inspect")
    places = [text.index(f"╭─ {group} ─") for group in groups]
    assert places == sorted(places)
    start, data = (text.index(f"│ {verb} ") for verb in ("demo", "data"))
    assert places[0] < start < places[1] < data < places[2]


def test_alone_it_shows_the_first_steps(cli: Callable[..., Any]) -> None:
    result = cli()
    assert result.code == 2
    commands = [line.strip() for line in result.out.splitlines() if line.startswith("      mm")]
    assert [command.split()[1] for command in commands] == ["scan", "check", "run", "demo"]
    assert "mmpoison --help" in result.out


def test_version(cli: Callable[..., Any]) -> None:
    assert cli("--version").out == f"mmpoison {__version__}\n"


def test_lists(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("run").out.splitlines() == list_recipes()
    # on a terminal a table, of 80 columns, with whole names and numbers
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_width", 80)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in cli("run").out.splitlines()]
    assert max(map(len, lines)) <= 80
    names = [line.split()[0] for line in lines[1 : lines.index("")]]
    assert names == list(recipe_files())
    (third,) = (line for line in lines if line.startswith("table-3 "))
    assert third.split()[:3] == ["table-3", "11", "attack"]
    assert "openmoji" in cli("data", "list").out


def test_the_command_is_installed() -> None:
    """In its own process, as a shell starts it: exit code, one line, no traceback."""
    start = [sys.executable, "-c", "from mmpoison.cli import main; main()"]
    done = subprocess.run(
        [*start, "data", "verify", "nowhere"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mmpoison: nowhere: no such folder or file")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["train", "--help"], ["run"]])
def test_help_and_lists_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['mmpoison', *{arguments}]\n"
        "from mmpoison.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(sum(m in sys.modules for m in ('torch', 'open_clip')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("source", [True, False])
def test_it_runs_without_docstrings(source: bool) -> None:
    """Their texts are read from the source, or missing where there is none."""
    code = "import sys; sys.argv = ['', 'scan', '--help']; from mmpoison.cli import main; main()"
    hidden = (
        "import inspect; inspect.getsource = lambda of: open('/no/source'); " if not source else ""
    )
    plain, bare = (
        subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        for command in (("-c", code), ("-OO", "-c", hidden + code))
    )
    assert (bare.returncode, bare.stderr) == (0, "")
    assert (bare.stdout == plain.stdout) == source


def test_an_option_that_nothing_describes_is_refused() -> None:
    def verb(data: str, odd: int = 0) -> None:
        """Do it.

        Options:
            data: What
                it reads.
        """

    with pytest.raises(LookupError, match="verb: nothing says what odd is"):
        declared(verb)


@pytest.mark.parametrize("name", ["train", "evaluate", "scan", "check", "sterilize"])
def test_an_option_is_a_parameter_of_python(name: str) -> None:
    """What Python takes, the terminal takes, under the same name and with the same default."""
    options = {one.name: one for one in command_of(name).params}
    taken = {"pairs": "data", "options": "option"}
    for parameter in inspect.signature(getattr(mmpoison, name)).parameters.values():
        if parameter.name in ("progress", "settings"):
            continue
        changes = parameter.kind is parameter.VAR_KEYWORD
        option = options["changes" if changes else taken.get(parameter.name, parameter.name)]
        if option.required or option.name in ("changes", "workers"):
            continue
        assert option.default == (parameter.default if parameter.default != () else None)
