"""Shows the progress of long jobs: bars on a terminal, lines in a log, one element a step in a notebook."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmpoison.base.processes import is_main_process
from mmpoison.reporting.text import safe_text, visible
from mmpoison.runs.progress import RunProgress, SilentProgress

if TYPE_CHECKING:
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.training.loop import OnStep, Step


# -- Says every half minute that work goes on, where no bar moves: in a log, a pipe, a scheduler.


SECONDS_OF_SILENCE = 30.0
"""A reader of a log waits no longer for a sign of life."""


class Heartbeat:
    """Prints a line, from its own thread, when nothing was printed for half a minute.

    Args:
        say: Shows one line; called from one thread at a time.
        doing: What is said while `at` is empty.
        silence: Seconds without a line; `SECONDS_OF_SILENCE` by default.

    Attributes:
        at: What is being done at this moment; set it as often as it changes.
    """

    def __init__(
        self, say: Callable[[str], None], doing: str, silence: float | None = None
    ) -> None:
        self.at = ""
        self._say, self._doing = say, doing
        self._silence = SECONDS_OF_SILENCE if silence is None else silence
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._begun = self._said = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def say(self, line: str) -> None:
        """Print a line; the next heartbeat waits for a full silence again."""
        with self._lock:
            self._said = time.monotonic()
            self._say(line)

    def _watch(self) -> None:
        while not self._ended.wait(max(0.01, self._said + self._silence - time.monotonic())):
            if time.monotonic() - self._said < self._silence:
                continue
            seconds = time.monotonic() - self._begun
            try:
                self.say(f"{self.at or self._doing} ({seconds:,.0f} s so far)")
            except (OSError, ValueError, SystemExit):
                return  # nobody reads any more: the main thread finds out itself


SECONDS_BETWEEN = 0.2
"""A notebook stores every update of an element that it is sent, so there are few."""


class Bar(Protocol):
    """The bar of one step."""

    def show(self, done: int, total: int, detail: str) -> None:
        """Show the new position."""

    def end(self, line: str) -> None:
        """End the bar of a completed step; `line` summarises it."""


class LiveProgress:
    """Draws one bar a step.

    Args:
        open_bar: Makes the bar of a step from its name and total.
        say: Shows one line.
    """

    def __init__(self, open_bar: Callable[[str, int], Bar], say: Callable[[str], None]) -> None:
        self._open_bar = open_bar
        self.say = say

    def progress(self, what: str) -> Callable[..., None]:
        """Return a bar for (done, total), and a detail and a last line."""
        bar: Bar | None = None

        def update(done: int, total: int, detail: str = "", last: str = "") -> None:
            nonlocal bar
            bar = bar or self._open_bar(what, total)
            bar.show(done, total, detail)
            if done >= total:
                bar.end(f"{what}: {last or f'{total:,}'}")

        return update

    def training(self, what: str) -> OnStep:
        """Return a bar for the steps of a fine-tune, with loss and rate."""
        show = self.progress(what)

        def update(step: Step, _: DualEncoder) -> None:
            loss, rate = f"loss {step.loss:.3f}", f"{step.pairs_per_second:,.0f} pairs/s"
            last = f"{step.steps} steps, {loss}, {rate}"
            show(step.step, step.steps, f"{loss}  {rate}", last)

        return update


class _ConsoleBar:
    """A bar of `rich`."""

    def __init__(self, progress: Progress, what: str, total: int):
        self._progress = progress
        self._task = progress.add_task(visible(what), total=total, detail="")

    def show(self, done: int, total: int, detail: str) -> None:
        self._progress.update(self._task, completed=done, total=total, detail=detail)

    def end(self, line: str) -> None:
        self._progress.stop_task(self._task)


class _LoggedBar:
    """One line at the end of a step, and what a heartbeat says of it before."""

    def __init__(self, heartbeat: Heartbeat, what: str, total: int) -> None:
        self._heartbeat, self._what = heartbeat, what
        self.show(0, total, "")

    def show(self, done: int, total: int, detail: str) -> None:
        self._heartbeat.at = f"{self._what}: {done:,} of {total:,}{detail and f', {detail}'}"

    def end(self, line: str) -> None:
        # what comes next has no bar yet
        self._heartbeat.at = f"working, after {self._what}"
        self._heartbeat.say(line)


@contextmanager
def console_progress(console: Console, doing: str = "working") -> Iterator[LiveProgress]:
    """Draw bars on a console while the block runs; where it is no terminal, a line for each step, and every 30 seconds.

    Args:
        console: Where to.
        doing: What the line says between two steps.
    """

    def say(message: str) -> None:
        console.print(safe_text(message), highlight=False, soft_wrap=True)

    if not console.is_terminal:
        with Heartbeat(say, doing) as heartbeat:
            yield LiveProgress(partial(_LoggedBar, heartbeat), heartbeat.say)
        return
    progress = Progress(
        # plain text, because names in it come from files
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        yield LiveProgress(partial(_ConsoleBar, progress), say)


class _NotebookBar:
    """An HTML element below a notebook cell, which is replaced as the step goes."""

    def __init__(self, what: str, total: int) -> None:
        from IPython import display

        html: Any = display.HTML
        self._html: Callable[[str], object] = html
        self._what = visible(what)
        self.ended = False
        self._shown = time.monotonic()
        self._handle: Any = display.display(self._html(self._text(0, total, "")), display_id=True)

    def show(self, done: int, total: int, detail: str) -> None:
        if time.monotonic() - self._shown >= SECONDS_BETWEEN:
            self._shown = time.monotonic()
            self._handle.update(self._html(self._text(done, total, detail)))

    def end(self, line: str = "") -> None:
        self.ended = True
        line = line or self._what
        self._handle.update(self._html(f"<small>{escape(visible(line))}</small>"))

    def _text(self, done: int, total: int, detail: str) -> str:
        return (
            f'<progress value="{done}" max="{total}"></progress> '
            f"<small>{escape(self._what)} {done:,}/{total:,} {escape(detail)}</small>"
        )


@contextmanager
def shown(progress: bool | RunProgress) -> Iterator[RunProgress]:
    """Return the progress display of a function of the Python API.

    Args:
        progress: True shows bars where a person looks: in a notebook, or on standard error if it is a terminal. False
            shows nothing. A reporter is used as it is.
    """
    if not isinstance(progress, bool):
        yield progress
        return
    console = Console(stderr=True)
    if not progress or not is_main_process():
        yield SilentProgress()
    elif console.is_jupyter:
        bars: list[_NotebookBar] = []

        def open_bar(what: str, total: int) -> Bar:
            bars.append(_NotebookBar(what, total))
            return bars[-1]

        yield LiveProgress(open_bar, lambda line: print(visible(line)))
        for bar in bars:
            if not bar.ended:
                bar.end()
    elif console.is_terminal:
        with console_progress(console) as progress_of_console:
            yield progress_of_console
    else:
        yield SilentProgress()
