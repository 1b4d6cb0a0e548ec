"""How the command line shows where a long job is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
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
    str, typer.Option("--device", help="auto (a GPU where there is one), cpu, cuda or cuda:N.")
]

# of several processes only the first one speaks
console = Console(quiet=not is_main_process())


def aside() -> Console:
    """A console on standard error, for what is said while standard output is for a program to read."""
    return Console(stderr=True, quiet=not is_main_process())


def echo(text: str) -> None:
    """Text on standard output as it is, whatever the width of the terminal."""
    if is_main_process():
        typer.echo(text, nl=not text.endswith("\n"))


def say(line: str) -> None:
    """One line on standard output as long as it is; names in it come from data and are only shown."""
    console.print(visible(line), markup=False, highlight=False, soft_wrap=True)


def stderr(line: str) -> None:
    """One line on standard error, without control characters that its data may hold."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    sys.stderr.write(plain + "\n")


class RichMonitor:
    """Draws one bar a step; on a terminal they move, in a log they are a line each."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._moving = progress.console.is_terminal

    def say(self, message: str) -> None:
        """Show one line above the bars."""
        self._progress.console.print(safe_text(message), highlight=False, soft_wrap=True)

    def progress(self, what: str) -> Callback:
        """A bar for (done, total)."""
        task: TaskID | None = None

        def update(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = self._progress.add_task(visible(what), total=total, detail="")
            self._progress.update(task, completed=done, total=total)
            if done >= total:
                self._finish(task, f"{what}: {total:,}")

        return update

    def training(self, what: str) -> OnStep:
        """A bar for the steps of a fine-tune, with loss and rate."""
        task: TaskID | None = None

        def update(step: Step, _: DualEncoder) -> None:
            nonlocal task
            if task is None:
                task = self._progress.add_task(visible(what), total=step.steps, detail="")
            self._progress.update(
                task,
                completed=step.step,
                detail=f"loss {step.loss:.3f}  {step.pairs_per_second:,.0f} pairs/s",
            )
            if step.step == step.steps:
                self._finish(
                    task,
                    f"{what}: {step.steps} steps, loss {step.loss:.3f}, "
                    f"{step.pairs_per_second:,.0f} pairs/s",
                )

        return update

    def _finish(self, task: TaskID, line: str) -> None:
        if not self._moving:
            self.say(line)
        self._progress.stop_task(task)


@contextmanager
def monitor(*, on_stderr: bool = False) -> Iterator[RichMonitor]:
    """A monitor that draws on the terminal while the block runs.

    Args:
        on_stderr: Draw on standard error, where standard output is for a program to read.
    """
    where = aside() if on_stderr else console
    progress = Progress(
        # plain text, because names in it come from files
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=where,
        disable=not where.is_terminal,
    )
    with progress:
        yield RichMonitor(progress)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show that something goes on whose length is not known; nothing where nobody watches standard error."""
    where = aside()
    if not where.is_terminal:
        yield
        return
    with where.status(visible(what)):
        yield
