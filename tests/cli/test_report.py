"""`report` of many settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reporting.test_overview import write_run

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
    assert "--markdown FILE" in shown.out + shown.err
    whole = json.loads(cli("report", tmp_path, "--format", "json").out)
    assert sum("small, a" in table["title"] for table in whole) == 13
    file = tmp_path / "all.md"
    assert cli("report", tmp_path, "--markdown", file).code == 0
    assert file.read_text().count("**small, a") == 13
