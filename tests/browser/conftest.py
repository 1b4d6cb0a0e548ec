"""A real browser, Chromium without a window; whatever it complains of fails the test."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fastapi import FastAPI
    from playwright.sync_api import Browser, BrowserContext, Page

SCRIPT = "<script>alert('caption')</script><img src=x onerror=alert(1)> sheep"
UNFOLD = "for (const fold of document.querySelectorAll('details')) fold.open = true"
ESCAPES = "a \x1b[31mred\x1b]0;title\x07 \u202eplane"

NEEDED = os.environ.get("MMPOISON_CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; the test is skipped where there is none.

    It is not kept for longer: its event loop, which runs meanwhile, lets no test run another one.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if NEEDED is None:
        pytest.skip("no Chromium on this machine (or set MMPOISON_CHROMIUM to one)")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=NEEDED, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()


class Watched:
    """Pages with everything that they complained of and asked for."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._forgiven: list[str] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def open(self, **options: Any) -> Page:
        """A new tab with its own context; options are Playwright's, e.g. `viewport`, `color_scheme`."""
        context = self._browser.new_context(**options)
        context.set_default_timeout(30_000)
        self._contexts.append(context)
        return self.tab(context)

    def tab(self, context: BrowserContext) -> Page:
        """One more tab of a context."""
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.requests.append(request.url))
        return page

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def forgive(self, *words: str) -> None:
        """Allow complaints with one of some words: a test breaks things that a browser notes by itself.

        Those that come later count too: a note may arrive after the page shows what it is about.
        """
        self._forgiven += words

    def close(self) -> list[str]:
        """Close all pages; what was complained of and not forgiven."""
        for context in self._contexts:
            context.close()
        return [
            line for line in self.complaints if not any(word in line for word in self._forgiven)
        ]


@pytest.fixture
def pages(browser: Browser, serve: object, serve_here: object) -> Iterator[Watched]:
    """Opens pages; at the end nothing may have been complained of that the test has not forgiven.

    The servers are named so that pages are closed before they end.
    """
    watched = Watched(browser)
    yield watched
    assert watched.close() == []


@pytest.fixture
def serious() -> Callable[[Page], list[str]]:
    """A function that has axe look at a page: what it finds serious or critical, in one line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")

    def check(page: Page) -> list[str]:
        found = axe.Axe().run(page).response["violations"]
        return [
            f"{rule['id']}: {rule['help']} at {node['target']}: {node.get('failureSummary', '')}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    return check


@pytest.fixture
def too_wide() -> Callable[[Page], int]:
    """A function that says by how many pixels a page must be scrolled sideways."""

    def measure(page: Page) -> int:
        return int(
            page.evaluate(
                "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
            )
        )

    return measure


class Served:
    """A command of mmpoison that serves a page, in its own process, always at the same port."""

    def __init__(self, arguments: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._arguments = [*arguments, "--no-open", "--port", str(port)]
        self.process: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self) -> str:
        """Start it and wait for its address."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mmpoison", *self._arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.match(r"(http://\S+)", line):
                self.address = found[1]
                return self.address
        raise AssertionError("".join(said))

    def kill(self) -> None:
        """As a machine that loses power would."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """A function that starts `mmpoison` with arguments and gives its address; ended after the test."""
    started: list[Served] = []

    def start(*arguments: str | Path) -> Served:
        served = Served([str(argument) for argument in arguments])
        started.append(served)
        served.start()
        return served

    yield start
    for served in started:
        served.kill()


@pytest.fixture
def serve_here() -> Iterator[Callable[[FastAPI], str]]:
    """A function that serves an application in a thread of this process and gives its address."""
    from mmpoison.pages import serve as serve_app

    started: list[tuple[FastAPI, threading.Thread]] = []

    def start(app: FastAPI) -> str:
        ready: Queue[str] = Queue()
        thread = threading.Thread(target=serve_app, args=(app,), kwargs={"ready": ready.put})
        thread.start()
        started.append((app, thread))
        return ready.get(timeout=20)

    yield start
    for app, thread in started:
        app.state.stop()
        thread.join(timeout=20)


@pytest.fixture
def offline_and_accessible(
    pages: Any, serious: Callable[[Page], list[str]], too_wide: Callable[[Page], int]
) -> Callable[..., None]:
    """A function that opens a file as a page, which must ask for nothing, be accessible, and fit a phone."""

    def check(file: Path, scheme: str, scripts: int = 0) -> None:
        page = pages.open(
            color_scheme=scheme, offline=True, viewport={"width": 1100, "height": 900}
        )
        page.goto(file.as_uri())
        # the checker brings a script of its own, so what the page asked for is looked at first
        page.wait_for_load_state("networkidle")
        asked = [url for url in pages.requests if not url.startswith(("file:", "data:"))]
        assert asked == []
        assert page.locator("script").count() == scripts
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        page.evaluate(UNFOLD)
        assert serious(page) == []
        page.set_viewport_size({"width": 320, "height": 640})
        assert too_wide(page) == 0
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (colour != "rgb(255, 255, 255)") == (scheme == "dark")

    return check
