"""Reports the progress of a long job: the contract, and a reporter that is silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mmpoison.base.progress import Progress, silent

if TYPE_CHECKING:
    # torch takes seconds to import
    from mmpoison.training.loop import OnStep


class RunProgress(Protocol):
    """A reporter of progress; the command line draws it."""

    def say(self, message: str) -> None:
        """Show one line."""

    def progress(self, what: str) -> Progress:
        """Return a callback for (done, total) of a named step."""
        ...

    def training(self, what: str) -> OnStep:
        """Return a callback for the steps of a named fine-tune."""
        ...


class SilentProgress:
    """Reports nothing."""

    def say(self, message: str) -> None:
        """Drop the line."""

    def progress(self, what: str) -> Progress:
        """Return a callback that does nothing."""
        return silent(what)

    def training(self, what: str) -> OnStep:
        """Return a callback that does nothing."""
        return lambda step, encoder: None
