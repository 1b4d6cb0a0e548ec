"""A web server on this machine that misbehaves as a test asks."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mmpoison.datasets import fetch


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip file of names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclass
class Web:
    """What a server serves, and how.

    Attributes:
        url: Its address, without a slash behind.
        files: Content by path.
        redirects: Where a path leads on to.
        lengths: Whether `Content-Length` is sent.
        headers: More headers of each answer.
        cuts: For the next answers, one each: after how many bytes of the body the connection is cut.
        statuses: For the next requests, one each: an error instead of the file.
        requests: What was asked for: path and headers.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    lengths: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def add(self, path: str, content: bytes) -> str:
        """Serve a file and return its address."""
        self.files[path] = content
        return f"{self.url}{path}"

    def behave(self, **how: Any) -> None:
        """Set some attributes."""
        vars(self).update(how)


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.requests.append((self.path, dict(self.headers)))
            path = self.path
            if web.statuses:
                self._answer(web.statuses.pop(0), b"busy")
            elif path in web.redirects:
                self._answer(302, b"", Location=web.redirects[path])
            elif path not in web.files:
                self._answer(404, b"no such page")
            else:
                self._answer(200, web.files[path], **web.headers)

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if web.lengths:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            # only what is part of a file is cut
            cut = web.cuts.pop(0) if web.cuts and status == 200 else len(body)
            self.wfile.write(body[:cut])

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    return Handler


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients hang up when they have seen enough."""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server of this machine, asked once and without a proxy."""
    monkeypatch.setattr(fetch, "RETRIES", 0)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    web = Web()
    server = _Server(("127.0.0.1", 0), _handler(web))
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    server.shutdown()
    thread.join()
    server.server_close()
