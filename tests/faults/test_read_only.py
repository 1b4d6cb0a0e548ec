"""Folders that may not be written: one line that names the folder, and inputs need no right to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import VERBS, one_line


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_an_output_that_may_not_be_written(
    bench: Any, mount: Callable[..., Path], tmp_path: Path, verb: str
) -> None:
    cache = tmp_path / "cache"
    place = mount("locked", "--bind", "-o", "ro", ".")
    environment = {"MMPOISON_CACHE": str(cache)}
    result = bench.nursery(bench.arguments(verb), place, environment=environment)
    assert result.code == 2, result
    line = one_line(result)
    assert line.startswith("mmpoison: Read-only file system: "), result
    assert "out" in line or "locked" in line


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["poison", "scan-pairs", "train"])
def test_a_cache_that_may_not_be_written(
    bench: Any, mount: Callable[..., Path], tmp_path: Path, verb: str
) -> None:
    cache = mount("cache", "--bind", "-o", "ro", ".")
    place = tmp_path / "place"
    place.mkdir()
    result = bench.nursery(bench.arguments(verb), place, environment={"MMPOISON_CACHE": str(cache)})
    assert "Traceback" not in result.err + result.out
    if result.code:
        assert result.code == 2
        assert str(cache) in one_line(result)
        assert sorted(path.name for path in place.iterdir()) == []


@pytest.mark.slow
def test_inputs_are_only_read(bench: Any, mount: Callable[..., Path], tmp_path: Path) -> None:
    squares = mount("squares", "--bind", "-o", "ro", str(bench.squares))
    place = tmp_path / "place"
    place.mkdir()
    arguments = [*bench.arguments("poison")]
    arguments[1] = str(squares)
    result = bench.nursery([*arguments[:-1], "link"], place)
    assert result.code == 0, result
    assert sum(1 for _ in (place / "out").rglob("*.png")) == 56
