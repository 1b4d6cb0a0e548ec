"""Every verb explains itself, and says nothing it does not mean."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.main import get_command

from mmpoison import __version__
from mmpoison.cli.app import app
from mmpoison.runs.recipe_files import list_recipes


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands that are no groups."""
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "commands", None):
            yield from verbs(child, (*path, name))
        else:
            yield (*path, name)


VERBS = sorted(verbs(get_command(app)))


def test_the_verbs_are_there() -> None:
    wanted = {"demo", "poison", "train", "evaluate", "filter", "sterilize", "run", "report"}
    assert wanted <= {path[0] for path in VERBS}
    assert {("data", "list"), ("data", "build"), ("data", "verify")} <= set(VERBS)


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_help_has_an_example(cli: Callable[..., Any], path: tuple[str, ...]) -> None:
    result = cli(*path, "--help")
    assert result.code == 0
    assert result.err == ""
    text = " ".join(result.out.replace("│", " ").split())
    assert f"Example: mmpoison {' '.join(path)}" in text
    # markup is rendered, not shown
    assert "[bold]" not in text
    assert cli(*path, "-h").out == result.out


def test_version(cli: Callable[..., Any]) -> None:
    assert cli("--version").out == f"mmpoison {__version__}\n"


def test_lists(cli: Callable[..., Any]) -> None:
    assert cli("run", "--list").out.splitlines() == list_recipes()
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


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; sys.argv = ['mmpoison', 'train', '--help']\n"
        "from mmpoison.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(sum(m in sys.modules for m in ('torch', 'open_clip')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0
