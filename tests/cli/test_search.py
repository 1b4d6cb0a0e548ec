"""The verb `search`: what is refused before and while a page is there, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.errors import InputError

Cli = Callable[..., Any]


def test_a_busy_port(refused: Callable[[str], str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(f"search --models model --data squares --port {port}")
    assert f"cannot listen on 127.0.0.1 port {port} (Address already in use)" in said
    assert "less than or equal to 65535" in refused("search --models m --data d --port 65536")


@pytest.mark.parametrize("broken", ["model", "data"])
def test_what_cannot_be_loaded_ends_the_page(
    work: Path, refused: Callable[[str], str], broken: str
) -> None:
    (work / "broken").mkdir()
    (work / "broken" / "captions.jsonl").write_text("{")
    model, data = ("./broken", "squares") if broken == "model" else ("model", "broken")
    assert "broken" in refused(f"search --models {model} --data {data} --port 0")


@pytest.mark.parametrize("how", ["--format csv", "--data-root .", "--option separator=;"])
def test_how_data_are_read_needs_data(refused: Callable[[str], str], how: str) -> None:
    assert f"{how.split()[0]} needs --data" in refused(f"search --demo {how} --port 0")


class Loading:
    """A library that becomes ready when somebody says so."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.error: BaseException | None = None

    def wait(self, timeout: float) -> None:
        if not self.ready.wait(timeout):
            raise TimeoutError
        if self.error is not None:
            raise self.error


def test_the_browser_opens_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import mmpoison.cli.search as module

    opened: list[str] = []
    monkeypatch.setattr(module, "open_in_browser", opened.append)
    library: Any = Loading()
    waiting = threading.Thread(
        target=module._open_with_an_answer, args=(library, "http://x/", 60.0)
    )
    waiting.start()
    waiting.join(0.2)
    assert opened == []
    library.ready.set()
    waiting.join(20)
    assert opened == ["http://x/"]
    # a gallery that takes minutes: the page shows how far it is
    slow: Any = Loading()
    module._open_with_an_answer(slow, "http://slow/", 0.01)
    assert opened == ["http://x/", "http://slow/"]
    # the command ends with an error: there is no page
    library.error = InputError("no such model")
    module._open_with_an_answer(library, "http://failed/", 60.0)
    assert opened == ["http://x/", "http://slow/"]


def test_it_answers_and_ctrl_c_ends_it(square_folder: Path, checkpoint: Path) -> None:
    command = [sys.executable, "-m", "mmpoison", "search", "--models", f"one={checkpoint}"]
    process = subprocess.Popen(
        [*command, f"two={checkpoint}", "--data", str(square_folder), "--no-open", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        # the page is there at once, whatever is still loading
        with urllib.request.urlopen(address, timeout=30) as page:
            assert "mmpoison search" in page.read().decode()
        with urllib.request.urlopen(f"{address}api/state", timeout=30) as answer:
            state = json.loads(answer.read())
        assert [model["name"] for model in state["models"]] == ["one", "two"]
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert err == ""
    assert out.splitlines()[-1].startswith("stopped after")
