"""`report` of many settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.test_overview import write_run

from mmpoison.cli.console import console

Cli = Callable[..., Any]


def test_of_many_settings_a_terminal_shows_those_side_by_side_alone(
    cli: Cli, tmp_path: Path
) -> None:
    for number in range(13):
        write_run(tmp_path / "sweep" / "runs" / f"{number:02}", 0, (f"a{number:02}2b",))
    shown = cli("report", tmp_path)
    assert shown.code == 0, shown.err
    assert "mean of goals" in shown.out
    assert "small, a0" not in shown.out
    assert "26 more tables, all columns and intervals: --all" in shown.out
    assert cli("report", tmp_path, "--all").out.count("small, a") == 13
    whole = json.loads(cli("report", tmp_path, "--json").out)
    assert sum("small, a" in table["title"] for table in whole) == 13
    file = tmp_path / "all.md"
    assert cli("report", tmp_path, "--markdown", file).code == 0
    assert file.read_text().count("**small, a") == 13


@pytest.mark.parametrize("width", ["40", "80"])
@pytest.mark.parametrize("more", [("--all",), ("--view", "all")])
def test_no_number_is_cut_at_any_width(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: str, more: tuple[str, ...]
) -> None:
    """Every number of the tables for programs is whole on the terminal too."""
    for seed in range(3):
        write_run(tmp_path / "runs" / f"{seed}", seed)
    monkeypatch.setattr(console, "_width", int(width))
    shown = cli("report", tmp_path / "runs", *more, "--out", tmp_path / "paper").out
    assert "…" not in shown
    assert not re.search(r"^ *[a-z] *\n *[a-z] *$", shown, re.MULTILINE), "drawn letter by letter"
    if more == ("--all",):
        tables = json.loads(cli("report", tmp_path / "runs", "--json").out)
        means = [
            cell["mean"]
            for table in tables[:1]
            for row in table["rows"]
            for name, cell in row.items()
            if isinstance(cell, dict) and name in ("Hit@10", "IR Hit@10")
        ]
        assert means
        for mean in means:
            assert re.search(rf"(?<![\d.]){mean:.3f}(?![\d.])", shown)


def test_every_file_that_is_asked_for_is_written(cli: Cli, tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs" / f"{seed}", seed)
    files = [tmp_path / name for name in ("page.html", "all.parquet", "tables.md")]
    given = [
        *("--html", files[0], "--parquet", files[1], "--markdown", files[2]),
    ]
    done = cli("report", tmp_path / "runs", *given)
    assert done.code == 0, done.err
    assert all(file.is_file() for file in files)
    assert f"page: {files[0]}" in done.out
    assert f"rows: {files[1]}" in done.out
