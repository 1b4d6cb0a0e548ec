"""How a long job tells its reader where it is; the command line draws it, the tests keep quiet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mmpoison.training.loop import OnStep

Progress = Callable[[int, int], None]


class RunProgress(Protocol):
    """What a stage reports to."""

    def say(self, message: str) -> None:
        """Show one line."""

    def progress(self, what: str) -> Progress:
        """A callback for (done, total) of a named step."""
        ...

    def training(self, what: str) -> OnStep:
        """A callback for the steps of a named fine-tune."""
        ...


class SilentProgress:
    """Says nothing."""

    def say(self, message: str) -> None:
        """Drop the line."""

    def progress(self, what: str) -> Progress:
        """A callback that does nothing."""
        return lambda done, total: None

    def training(self, what: str) -> OnStep:
        """A callback that does nothing."""
        return lambda step, encoder: None
