"""A server that starts, says where it is, and stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from mmpoison.errors import InputError
from mmpoison.pages import create_app, serve
from mmpoison.pages.local_app import _listen

PAGE = """
import sys
from pathlib import Path
from mmpoison.pages import create_app, serve
from mmpoison.pages.local_app import _listen
app = create_app("test", Path(sys.argv[1]))
asked = serve(app, ready=lambda address: print(address, flush=True))
print("asked" if asked else "interrupted", flush=True)
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "index.html").write_text("<p>page")
    return tmp_path


def test_until_it_is_asked_to_stop(page: Path) -> None:
    app = create_app("test", page)

    @app.post("/stop")
    def stop() -> None:
        app.state.stop()

    seen: list[str] = []

    def visit(address: str) -> None:
        with urllib.request.urlopen(address, timeout=20) as answer:
            seen.append(answer.read().decode())
        urllib.request.urlopen(urllib.request.Request(address + "stop", b"", method="POST"))

    def ready(address: str) -> None:
        threading.Thread(target=visit, args=(address,)).start()

    serve(app, ready=ready)
    assert seen == ["<p>page"]


def test_answers_are_sent_at_once() -> None:
    # asyncio turns Nagle's algorithm off only where the protocol is named; it costs 40 ms an answer
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 0), ("127.0.0.1", 99999)])
def test_an_address_that_cannot_be_had(page: Path, host: str, port: int) -> None:
    with pytest.raises(InputError, match=f"cannot listen on {host} port {port}"):
        serve(create_app("test", page), host=host, port=port)


def test_ctrl_c_ends_it_without_a_trace(page: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PAGE, str(page)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        urllib.request.urlopen(address, timeout=20).close()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
