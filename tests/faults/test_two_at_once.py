"""Two of the same command at once: one does the work, the other says so in one line, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import VERBS, one_line


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_two_at_once(
    bench: Any, same_again: Callable[[str, Path], None], tmp_path: Path, verb: str
) -> None:
    results = bench.nursery.several(bench.arguments(verb), tmp_path, copies=2)
    assert sorted(result.code for result in results) in ([0, 2], [0, 0]), results
    for result in results:
        assert "Traceback" not in result.err + result.out
        if result.code:
            line = one_line(result)
            assert line.startswith("mmpoison: out: another ")
            assert "process" in line
    assert (tmp_path / "out").is_dir()
    same_again(verb, tmp_path)
