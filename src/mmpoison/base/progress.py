"""Progress callbacks of long jobs; `mmpoison.api.progress` displays them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

ProgressFor = Callable[[str], Progress]
"""Returns the callback for a named step."""

StepProgress = Callable[[Any, Any], bool | None]
"""Called after each step of a fine-tune: `OnStep` of `mmpoison.training`, without the types that need torch."""


def silent(what: str) -> Progress:
    """Return a callback that shows nothing."""
    return lambda done, total: None


class RunProgress(Protocol):
    """A progress reporter, which the command line displays."""

    def say(self, message: str) -> None:
        """Show one line."""

    def progress(self, what: str) -> Progress:
        """Return a callback for (done, total) of a named step."""
        ...

    def training(self, what: str) -> StepProgress:
        """Return a callback for the steps of a named fine-tune."""
        ...


class SilentProgress:
    """Reports nothing."""

    def say(self, message: str) -> None:
        """Drop the line."""

    def progress(self, what: str) -> Progress:
        """Return a callback that does nothing."""
        return silent(what)

    def training(self, what: str) -> StepProgress:
        """Return a callback that does nothing."""
        return lambda step, encoder: None
