"""Output of the command line: consoles, single lines, progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmpoison.base.phrasing import printable_line
from mmpoison.base.processes import is_main_process
from mmpoison.reporting.text import safe_text, visible

if TYPE_CHECKING:
    # torch takes seconds to import, and `mmpoison --help` should not wait for it
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.runs.progress import Progress as Callback
    from mmpoison.training.loop import OnStep, Step

SEEDS = 2**63 - 1
"""The largest seed."""
WORKERS = 4096
"""The most processes or threads of one command."""

Format = Literal["table", "markdown", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (a GPU if there is one), cpu, cuda or cuda:N.")
]

# of several processes only the first one prints
console = Console(quiet=not is_main_process())


def stderr_console() -> Console:
    """Return a console on standard error, for commands whose standard output a program reads."""
    return Console(stderr=True, quiet=not is_main_process())


def echo(text: str) -> None:
    """Print text on standard output unchanged, whatever the width of the terminal."""
    if is_main_process():
        typer.echo(text, nl=not text.endswith("\n"))


def say(line: str) -> None:
    """Print one line on standard output, unwrapped; markup and control characters are not interpreted."""
    console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def stderr(line: str) -> None:
    """Print one line on standard error, without control characters."""
    sys.stderr.write(printable_line(line) + "\n")


class RichMonitor:
    """Progress bars, one per step: moving on a terminal, one line each in a log."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._moving = progress.console.is_terminal

    def say(self, message: str) -> None:
        """Show one line above the bars."""
        self._progress.console.print(safe_text(message), highlight=False, soft_wrap=True)

    def progress(self, what: str) -> Callback:
        """Make a bar for (done, total)."""
        update = self._bar(what)
        return lambda done, total: update(done, total, f"{total:,}", "")

    def training(self, what: str) -> OnStep:
        """Make a bar for the steps of a fine-tune, with loss and rate."""
        update = self._bar(what)

        def step(at: Step, _: DualEncoder) -> None:
            loss, speed = f"loss {at.loss:.3f}", f"{at.pairs_per_second:,.0f} pairs/s"
            update(at.step, at.steps, f"{at.steps} steps, {loss}, {speed}", f"{loss}  {speed}")

        return step

    def _bar(self, what: str) -> Callable[[int, int, str, str], None]:
        """Make a function that moves a bar to (done, total); takes the last line of a log and the bar's detail too."""
        task: TaskID | None = None

        def update(done: int, total: int, last: str, detail: str) -> None:
            nonlocal task
            if task is None:
                task = self._progress.add_task(visible(what), total=total, detail="")
            self._progress.update(task, completed=done, total=total, detail=detail)
            if done >= total:
                if not self._moving:
                    self.say(f"{what}: {last}")
                self._progress.stop_task(task)

        return update


@contextmanager
def monitor(*, on_stderr: bool = False) -> Iterator[RichMonitor]:
    """Show progress on the terminal while the block runs.

    Args:
        on_stderr: Use standard error, if a program reads standard output.
    """
    shown = stderr_console() if on_stderr else console
    progress = Progress(
        # plain text, because names in it come from files
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=shown,
        disable=not shown.is_terminal,
    )
    with progress:
        yield RichMonitor(progress)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show that work of unknown length goes on; nothing if standard error is not a terminal."""
    shown = stderr_console()
    if not shown.is_terminal:
        yield
        return
    with shown.status(visible(what)):
        yield
