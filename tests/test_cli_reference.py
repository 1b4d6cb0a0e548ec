"""The pages of the command line are those that the help gives, and the contracts those that the code keeps."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(),
    reason="not in a built package",
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs/tools"))  # as it is for a script
        importlib.import_module("contracts")
        return importlib.import_module("cli_reference")


def differing(made: dict[Path, str]) -> list[Path]:
    """Those that the script would name, which imports it from there."""
    return list(importlib.import_module("page_blocks").differing(made))


def test_the_pages_are_those_of_the_help(script: ModuleType) -> None:
    assert differing(script.pages()) == [], "python docs/tools/cli_reference.py --write"


def test_a_page_that_differs_is_found(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "REFERENCE", tmp_path)
    made = script.pages()
    assert set(differing(made)) == set(made)
    for file, content in made.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    assert differing(made) == []
    changed, gone = tmp_path / "cli" / "run.md", tmp_path / "cli" / "no-verb.md"
    changed.write_text("old")
    gone.write_text("of a verb that there was")
    assert set(differing(script.pages())) == {changed, gone}


def test_the_contracts_are_what_the_code_keeps(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    contracts = importlib.import_module("contracts")
    assert differing(contracts.pages()) == [], "python docs/tools/contracts.py --write"
    monkeypatch.setattr(contracts, "LINE_KEYS", ("image", "captions"))
    assert differing(contracts.pages()) == [contracts.PAGE]
