"""What a change of code or of a library does to the keys of cached results."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmpoison.base.content_cache import code_version


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    code_version.cache_clear()
    yield
    code_version.cache_clear()


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of another distribution on the path of Python."""
    folder = tmp_path / "housetest"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "result.py").write_text("def result():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


@pytest.mark.parametrize("name", ["result.py", "words.json", "more/__init__.py"])
def test_a_change_of_a_plug_ins_package_changes_the_version(plug_in: Path, name: str) -> None:
    before = code_version("housetest.result")
    (plug_in / name).parent.mkdir(exist_ok=True)
    (plug_in / name).write_text("{}")
    code_version.cache_clear()
    assert code_version("housetest.result") != before


def test_it_reads_all_sources_and_imports_no_torch() -> None:
    code = (
        "import importlib, sys; c = importlib.import_module('mmpoison.base.content_cache'); c.code_version(); "
        "names = c._contents('mmpoison'); "
        "print('torch' in sys.modules, sum(n.startswith('runs/run.py ') for n in names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]
