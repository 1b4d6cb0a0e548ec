"""One file over HTTP: bounded, checked, and nothing wrong is ever left under its name."""

from __future__ import annotations

import hashlib
import io
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch
import pytest
import requests

from mmpoison.datasets import fetch
from mmpoison.datasets.fetch import download
from mmpoison.errors import InputError

CONTENT = bytes(range(256)) * 4000  # about a megabyte, so that it comes in several pieces
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Web = Any  # the fixture of conftest.py
Get = Callable[..., None]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "data.zip"


@pytest.fixture
def get(web: Web, target: Path) -> Get:
    """Fetch `/data.zip`."""
    url = web.add("/data.zip", CONTENT)

    def fetch_it(**how: Any) -> None:
        download(how.pop("url", url), target, **{"most": SIZE, **how})

    return fetch_it


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_is_fetched_once(get: Get, web: Web, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    get(sha256=SHA256.upper(), progress=lambda *step: seen.append(step))
    assert target.read_bytes() == CONTENT
    assert left(target) == ["data.zip"]
    assert target.stat().st_mode & 0o777 == target.parent.stat().st_mode & 0o666
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] == (SIZE, SIZE)
    get(sha256=SHA256)
    assert len(web.requests) == 1
    target.write_bytes(b"another file")
    get()
    assert len(web.requests) == 1
    get(sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert not pooch.get_logger().isEnabledFor(logging.INFO)


def test_redirections_are_followed_and_no_length_is_needed(get: Get, web: Web) -> None:
    web.redirects["/old"] = f"{web.url}/data.zip"
    web.lengths = False
    get(url=f"{web.url}/old", sha256=SHA256)
    assert [headers["Accept-Encoding"] for _, headers in web.requests] == ["identity"] * 2


@pytest.mark.parametrize("trouble", [{"cuts": [5000]}, {"statuses": [503]}])
def test_a_failure_is_tried_again(
    get: Get, web: Web, monkeypatch: pytest.MonkeyPatch, trouble: dict[str, list[int]]
) -> None:
    monkeypatch.setattr(fetch, "RETRIES", 1)
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    web.behave(**trouble)
    get(sha256=SHA256)
    assert len(web.requests) == 2


@pytest.mark.parametrize(
    ("served", "expected", "message"),
    [
        ({}, {"sha256": "0" * 64}, f"expected {'0' * 64} but got {SHA256}"),
        ({}, {"most": SIZE - 1}, "has 1,024,000 bytes there, but at most 1,023,999 were expected"),
        ({"lengths": False}, {"most": SIZE - 1}, "sends more than 1,023,999 bytes"),
        ({"cuts": [5000]}, {}, "IncompleteRead"),
        ({"statuses": [404]}, {}, "404 Client Error"),
        ({"headers": {"X": "a", "Content-Encoding": "gzip"}}, {}, "gzip"),
        ({"redirects": {"/data.zip": "file:///etc/passwd"}}, {}, "No connection adapters"),
    ],
)
def test_nothing_is_left_of_a_failure(
    get: Get,
    web: Web,
    target: Path,
    served: dict[str, Any],
    expected: dict[str, Any],
    message: str,
) -> None:
    web.behave(**served)
    with pytest.raises(InputError, match=rf"/data.zip: .*{message}") as error:
        get(**expected)
    assert len(str(error.value).splitlines()) == 1
    assert left(target) == []


def test_a_server_that_falls_silent_is_left(
    get: Get, monkeypatch: pytest.MonkeyPatch, target: Path
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(InputError, match=r"/x: HTTPConnection.*timed out.*0\.2"):
            get(url=f"http://127.0.0.1:{silent.getsockname()[1]}/x")


def test_redirections_do_not_leave_encryption(
    get: Get, web: Web, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = requests.adapters.HTTPAdapter.send

    def lead_on(self: Any, request: Any, *arguments: Any, **options: Any) -> requests.Response:
        if request.url.startswith("http:"):
            return send(self, request, *arguments, **options)
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 302, request.url, request
        answer.headers["Location"], answer.raw = f"{web.url}/data.zip", io.BytesIO()
        return answer

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", lead_on)
    with pytest.raises(InputError, match=r"redirects to .*data.zip, which is not encrypted"):
        get(url="https://data.invalid/x")
    assert left(target) == []


def test_nobody_answers(get: Get) -> None:
    with pytest.raises(InputError, match=r"/x: HTTPConnection\(.*refused$"):
        get(url="http://127.0.0.1:1/x")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "/etc/passwd", "http://[", ""])
def test_only_addresses_of_the_web(get: Get, url: str) -> None:
    with pytest.raises(InputError, match=r": (No connection adapters|Invalid URL|Failed to parse)"):
        get(url=url)
