"""Tables and figures of the paper by name; each is one file of `entries`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmpoison.base.registry import Registry
from mmpoison.paper.measured import Results
from mmpoison.paper.page import Page

Render = Callable[[Results, Page], None]


@dataclass(frozen=True)
class Entry:
    """One table or figure.

    Attributes:
        name: `table-3`, `figure-5a`.
        title: What it is of.
        needs: What the runs must hold, for whoever has none.
        render: Puts its tables and figures on a page.
    """

    name: str
    title: str
    needs: str
    render: Render


PAPER: Registry[Entry] = Registry("table or figure", "mmpoison.paper.entries")


def entry(name: str, title: str, needs: str) -> Callable[[Render], Render]:
    """Register the renderer of a table or figure.

    Args:
        name: Its name.
        title: What it is of.
        needs: What the runs must hold.
    """

    def decorate(render: Render) -> Render:
        PAPER.register(name)(Entry(name, title, needs, render))
        return render

    return decorate


def in_order(names: list[str]) -> list[str]:
    """Tables first, each kind by number.

    >>> in_order(["table-10", "figure-1", "table-2"])
    ['table-2', 'table-10', 'figure-1']
    """

    def place(name: str) -> tuple[bool, bool, int, str]:
        kind, _, rest = name.partition("-")
        number = "".join(c for c in rest if c.isdigit())
        return kind != "table", kind != "figure", int(number or 0), name

    return sorted(names, key=place)
