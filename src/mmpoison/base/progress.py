"""The callbacks by which a long job says how far it is; `mmpoison.api.progress` shows them."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

ProgressFor = Callable[[str], Progress]
"""Gives the callback of a named step."""


def silent(what: str) -> Progress:
    """Return a callback that shows nothing."""
    return lambda done, total: None
