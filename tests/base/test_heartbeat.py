"""A sign of life where no bar moves."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from mmpoison.api import progress as module
from mmpoison.api.progress import SECONDS_OF_SILENCE, Heartbeat, console_progress


def wait_for(lines: list[str], count: int) -> None:
    until = time.monotonic() + 20
    while len(lines) < count and time.monotonic() < until:
        time.sleep(0.01)


def test_a_reader_waits_at_most_half_a_minute() -> None:
    assert SECONDS_OF_SILENCE <= 30


def test_it_says_what_is_done_whenever_nothing_was_said() -> None:
    lines: list[str] = []
    with Heartbeat(lines.append, "starting", silence=0.05) as heartbeat:
        wait_for(lines, 2)
        heartbeat.at = "training: 3 of 9"
        before = len(lines)
        wait_for(lines, before + 2)
    assert lines[0] == "starting (0 s so far)"
    assert lines[-1] == "training: 3 of 9 (0 s so far)" or "training: 3 of 9" in lines[-1]
    after = len(lines)
    time.sleep(0.2)
    assert len(lines) == after
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_a_line_delays_it() -> None:
    lines: list[str] = []
    with Heartbeat(lines.append, "starting", silence=30) as heartbeat:
        heartbeat.say("a stage")
    assert lines == ["a stage"]


def test_a_closed_output_ends_it_quietly() -> None:
    def closed(_: str) -> None:
        raise BrokenPipeError

    with Heartbeat(closed, "starting", silence=0.01):
        time.sleep(0.2)


def test_progress_without_a_terminal_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step, within a step, and after it."""
    monkeypatch.setattr(module, "SECONDS_OF_SILENCE", 0.05)
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    with console_progress(console, "loading") as progress:
        until = time.monotonic() + 20
        while "loading (" not in stream.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        update = progress.progress("reading [images]")
        update(3, 9)
        while "reading [images]: 3 of 9 (" not in stream.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        update(9, 9)
    text = stream.getvalue()
    assert "loading (0 s so far)\n" in text
    assert "reading [images]: 3 of 9 (" in text
    assert "reading [images]: 9\n" in text
