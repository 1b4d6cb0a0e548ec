"""The budgets of lines of code: what counts, and a room that grows is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs.tools import budgets


def test_what_a_line_of_code_is() -> None:
    text = '"""Says what,\n\nin lines."""\n\nx = """a\nb"""  # one\n# two\nclass A:\n    y: int\n    "What."\n    ...\n'
    assert budgets.lines_of_code(text) == 5


def test_a_room_that_grows_or_is_new_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, lines in (("defenses/scan/a", 2), ("runs/b", 1), ("cli/c", 3), ("new/d", 1)):
        file = tmp_path / "src" / "mmpoison" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n" * lines)
    monkeypatch.setattr(budgets, "ROOT", tmp_path)
    monkeypatch.setattr(budgets, "BUDGETS", tmp_path / "budgets.toml")
    rooms = 'scan = 1\nruns = 1\n"api + cli" = 3\nsrc = 9\nfiles = 9\ntests = 0\nbenchmarks = 0\n'
    (tmp_path / "budgets.toml").write_text(f"# why\n{rooms}")
    assert budgets.main() == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["new", "scan"]
    monkeypatch.setattr("sys.argv", ["budgets.py", "--write"])
    assert budgets.main() == 0
    assert (tmp_path / "budgets.toml").read_text().startswith("# why\n")
    monkeypatch.setattr("sys.argv", ["budgets.py"])
    assert budgets.main() == 0
