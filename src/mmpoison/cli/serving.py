"""Options and messages that all verbs with a local page share."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import Annotated

import typer

from mmpoison.base.extras import require
from mmpoison.cli.console import say

DEFAULT_PORT = 8747
PortOption = Annotated[
    int,
    typer.Option(
        "--port",
        min=0,
        max=65535,
        help="Port of the page; 0 takes a free one.",
        rich_help_panel="Page",
    ),
]
HostOption = Annotated[
    str,
    typer.Option(
        "--host",
        help="Address to listen on; everyone who can reach it can see the page.",
        rich_help_panel="Page",
    ),
]
OpenOption = Annotated[
    bool,
    typer.Option("--open/--no-open", help="Open the page in your browser.", rich_help_panel="Page"),
]


def check_pages(verb: str) -> None:
    """Refuse early if the packages of local pages are missing.

    Raises:
        InputError: If one is.
    """
    for package in ("fastapi", "uvicorn"):
        require(package, f"mmpoison {verb} needs the extra 'search' ({package})")


def announce(address: str, *, open_it: bool, what: str = "Ctrl-C stops it") -> None:
    """Print the page's address, and open it if there is a browser."""
    say(f"{address}   ({what})")
    if open_it:
        open_in_browser(address)


def open_in_browser(address: str) -> None:
    """Open a page if there is a graphical browser."""
    if _has_screen():
        try:
            webbrowser.open(address)
        except (webbrowser.Error, OSError):
            return


def _has_screen() -> bool:
    """Return whether there is a graphical browser; a text browser would take over the terminal."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
