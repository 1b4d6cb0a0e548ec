"""The command line, called as a user's shell would, in a folder with things to name."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmpoison.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """A function that runs `mmpoison` in this process; an exception that leaves it is a failure."""

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mmpoison", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@pytest.fixture
def work(
    tmp_path: Path, own_square_folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder, with `squares`, `model` and a cache of its own; and `full`, which is occupied."""
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMPOISON_DATA", raising=False)
    assert own_square_folder == tmp_path / "squares"
    return tmp_path


@pytest.fixture
def refused(
    cli: Callable[..., Outcome], work: Path, snapshot: Callable[[Path], dict[str, bytes]]
) -> Callable[..., str]:
    """A function that runs a command, given whole or in words, which must be refused; it gives the line.

    One line on standard error, exit code 2, and nothing written into `work` but the cache.
    """

    def run(command: str | list[str]) -> str:
        before = snapshot(work)
        result = cli(*(command.split() if isinstance(command, str) else command))
        assert result.code == 2, result
        assert result.err.startswith("mmpoison: ")
        assert result.err.endswith("\n")
        assert result.err.count("\n") == 1, result.err
        assert "Traceback" not in result.err + result.out
        after = {
            name: data for name, data in snapshot(work).items() if not name.startswith("cache")
        }
        assert after == before
        return result.err

    return run
