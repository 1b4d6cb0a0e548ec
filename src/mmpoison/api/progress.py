"""Shows the progress of long jobs: bars on a terminal and in a notebook, otherwise one line per step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from mmpoison.base.processes import is_main_process
from mmpoison.base.progress import RunProgress, SilentProgress
from mmpoison.base.text import safe_text, visible

if TYPE_CHECKING:
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.training.loop import OnStep, Step


class Remaining(TimeRemainingColumn):
    """A column with the remaining time, empty until `FEWEST` steps allow an estimate."""

    FEWEST = 10

    def render(self, task: Task) -> Text:
        """Render the remaining time, or nothing."""
        return super().render(task) if task.completed >= self.FEWEST else Text()


class LiveProgress:
    """Progress display: one bar per running step and one line per finished step.

    Without bars, there is one line when a step begins.

    Args:
        bars: The bars; disabled if the output is not a terminal or a notebook.
        doing: Text shown between two steps.
    """

    def __init__(self, bars: Bars, doing: str) -> None:
        self._bars, self._doing = bars, doing
        self._waiting: TaskID | None = None
        self._wait(doing)

    def say(self, message: str) -> None:
        """Print one line."""
        self._bars.console.print(safe_text(message), highlight=False, soft_wrap=True)

    def _wait(self, what: str | None) -> None:
        """Show a bar without a total below the others, for work that cannot be counted. None hides it."""
        if self._waiting is not None:
            self._bars.remove_task(self._waiting)
        self._waiting = self._bars.add_task(visible(what), total=None, at="") if what else None

    def progress(self, what: str) -> Callable[..., None]:
        """Return a callback that takes the steps done, the total and a detail."""
        self._wait(what)
        bar: Task | None = None

        def update(done: int, total: int, detail: str = "") -> None:
            nonlocal bar
            at = visible(f"{done:,}/{total:,}  {detail}".rstrip())
            # a defence may train twice under the same name
            if bar is None or (bar.finished and done < total):
                self._wait(None)
                self._bars.add_task(visible(what), total=total, completed=done, at=at)
                bar = self._bars.tasks[-1]
                if self._bars.disable:
                    self.say(f"{what}: {total:,}")
            ended = bar.finished
            self._bars.update(bar.id, completed=done, total=total, at=at, visible=done < total)
            if bar.finished and not ended:
                self._wait(self._doing)
                if not self._bars.disable:
                    self.say(f"{what}: {at}  {TimeElapsedColumn().render(bar)}")

        return update

    def training(self, what: str) -> OnStep:
        """Return a callback for training steps; it shows the loss and the speed."""
        show = self.progress(what)

        def update(step: Step, _: DualEncoder) -> None:
            detail = f"loss {step.loss:.3f}  {step.pairs_per_second:,.0f} pairs/s"
            show(step.step, step.steps, detail)

        return update


@contextmanager
def console_progress(console: Console, doing: str = "working") -> Iterator[LiveProgress]:
    """Show progress on a console while the block runs.

    Args:
        console: The console to draw on.
        doing: Text shown between two steps.
    """
    # rich draws in notebooks only with ipywidgets
    draws = console.is_interactive or (console.is_jupyter and find_spec("ipywidgets") is not None)
    bars = Bars(
        # plain text, not markup: names come from files
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        # a long detail wraps, so the other columns keep their width
        TextColumn("{task.fields[at]}", markup=False, table_column=Column()),
        TimeElapsedColumn(),
        Remaining(),
        console=console,
        # rich estimates the remaining time from recent steps, and one run of a sweep takes minutes
        speed_estimate_period=24 * 3600,
        disable=not draws,
        transient=True,
    )
    with bars:
        yield LiveProgress(bars, doing)


@contextmanager
def shown(progress: bool | RunProgress) -> Iterator[RunProgress]:
    """Show progress while a function of the Python API runs.

    Args:
        progress: True shows progress in a notebook, or on standard error if that is a terminal.
            False shows nothing. A reporter is used as given.
    """
    console = Console(stderr=True)
    if not isinstance(progress, bool):
        yield progress
    elif progress and is_main_process() and (console.is_terminal or console.is_jupyter):
        with console_progress(console) as reporter:
            yield reporter
    else:
        yield SilentProgress()
