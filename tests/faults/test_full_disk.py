"""A disk that fills up: one line that says so, nothing half-written, and with more room the same result."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import VERBS, one_line

PAGE = 4096


def room(folder: Path) -> int:
    """Bytes that the files of a folder take on a disk."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(-(-path.stat().st_size // PAGE) * PAGE for path in files)


def check_full(verb: str, result: Any) -> None:
    assert "Traceback" not in result.err + result.out, result
    if verb == "sweep" and result.code == 1:
        # the failures of runs are listed
        assert "disk is full" in result.out or "larger than the system allows" in result.out, result
        return
    assert result.code == 2, result
    line = one_line(result)
    assert any(part in line for part in ("disk is full", "larger than the system", "images")), line


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_small_disk(
    bench: Any,
    mount: Callable[..., Path],
    same_again: Callable[[str, Path], None],
    verb: str,
) -> None:
    bench.undisturbed(verb)
    needed = room(bench.folder / verb)
    place = mount("disk", "-t", "tmpfs", "-o", f"size={2 * PAGE}", "none")
    shares = (0.02, 0.5) if verb not in ("run", "sweep") else (0.4,)
    for share in shares:
        subprocess.run(
            ["mount", "-o", f"remount,size={int(needed * share)}", str(place)], check=True
        )
        result = bench.nursery(bench.arguments(verb), place)
        check_full(verb, result)
        if verb not in ("run", "sweep"):
            assert not (place / "out").exists()
        assert list(place.rglob("*.mmpoison-*")) == []
    subprocess.run(["mount", "-o", f"remount,size={40 * needed}", str(place)], check=True)
    same_again(verb, place)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "sterilize", "run"])
def test_files_that_may_not_grow(bench: Any, tmp_path: Path, verb: str) -> None:
    result = bench.nursery(bench.arguments(verb), tmp_path, file_bytes=4000)
    check_full(verb, result)
    assert list(tmp_path.rglob("*.mmpoison-*")) == []
