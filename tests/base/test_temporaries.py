"""Temporaries of this process are gone when it ends, at whatever moment it was stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from mmpoison.base import files
from mmpoison.base.files import owned_temporary, remove_own


def stop_at(line: int) -> Callable[[], bool]:
    """Raise KeyboardInterrupt at the given line, counted as they run in the module; the result says if it came."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    return lambda: seen >= line


@pytest.mark.parametrize("folder", [False, True])
def test_a_signal_at_any_line_leaves_nothing(tmp_path: Path, folder: bool) -> None:
    before = sys.gettrace()
    stops = 0
    try:
        for line in range(1, 200):
            came = stop_at(line)
            try:
                with owned_temporary(tmp_path / "out", folder=folder) as path:
                    (path / "half" if folder else path).write_text("x")
            except KeyboardInterrupt:
                stops += 1
            sys.settrace(before)
            remove_own()
            assert list(tmp_path.iterdir()) == [], line
            if not came():
                break
    finally:
        sys.settrace(before)
    assert came() is False
    assert stops > 10


def test_a_forked_child_leaves_its_parents_alone(tmp_path: Path) -> None:
    with owned_temporary(tmp_path / "out", folder=False) as path:
        child = os.fork()
        if not child:
            remove_own()
            os._exit(0)
        os.waitpid(child, 0)
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
