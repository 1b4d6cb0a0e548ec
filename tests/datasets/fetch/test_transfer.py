"""One file over HTTP: resumed, checked, and nothing wrong is ever left under its name."""

from __future__ import annotations

import hashlib
import http.client
import io
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpoison.datasets.fetch import transfer as module
from mmpoison.datasets.fetch.transfer import Downloaded, check_space, download, read_page
from mmpoison.errors import InputError

CONTENT = bytes(range(256)) * 4000  # about a megabyte, so that it comes in several pieces
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Web = Any  # the fixture of conftest.py
Get = Callable[..., Downloaded]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "data.zip"


@pytest.fixture
def get(web: Web, target: Path) -> Get:
    """Fetch `/data.zip`, without pauses."""
    url = web.add("/data.zip", CONTENT)

    def fetch(**how: Any) -> Downloaded:
        return download(how.pop("url", url), target, pause=0, **how)

    return fetch


def cut_off(get: Get, web: Web, **how: Any) -> None:
    """Fetch 5,000 bytes and stop."""
    web.cuts = [5000]
    with pytest.raises(InputError, match=r"5,000 bytes are saved, the same command resumes"):
        get(**{"attempts": 1, "sha256": SHA256, **how})


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


# -- what goes well --------------------------------------------------------------------------------


def test_a_file_is_fetched_once(get: Get, web: Web, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    got = get(sha256=SHA256, size=len(CONTENT), progress=lambda *step: seen.append(step))
    assert got == Downloaded(target, len(CONTENT), SHA256)
    assert target.read_bytes() == CONTENT
    assert left(target) == ["data.zip"]
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert get(sha256=SHA256) == Downloaded(target, len(CONTENT), SHA256)
    assert len(web.requests) == 1


def test_broken_connections_are_gone_on_with(get: Get, web: Web, target: Path) -> None:
    web.cuts = [1000, 300_000, 0, 1]
    seen: list[tuple[int, int]] = []
    assert get(sha256=SHA256, progress=lambda *step: seen.append(step)).sha256 == SHA256
    assert target.read_bytes() == CONTENT
    assert web.asked("Range") == [
        None,
        "bytes=1000-",
        "bytes=301000-",
        "bytes=301000-",
        "bytes=301001-",
    ]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_stopped_download_goes_on_in_the_next_call(get: Get, web: Web, target: Path) -> None:
    cut_off(get, web)
    assert left(target) == ["data.zip.part"]
    assert target.with_name("data.zip.part").read_bytes() == CONTENT[:5000]
    assert get(sha256=SHA256).sha256 == SHA256
    assert web.asked("Range") == [None, "bytes=5000-"]
    assert left(target) == ["data.zip"]


def test_a_killed_process_leaves_a_part_that_is_gone_on_with(
    get: Get, web: Web, target: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done > 1000:
            raise Killed

    with pytest.raises(Killed):
        get(progress=kill)
    have = target.with_name("data.zip.part").stat().st_size
    assert 1000 < have <= len(CONTENT)
    assert get(sha256=SHA256).sha256 == SHA256
    assert web.asked("Range")[1:] in ([f"bytes={have}-"], [])


def test_redirections_are_followed_and_ranges_with_them(get: Get, web: Web) -> None:
    web.redirects["/old"] = "/older"
    web.redirects["/older"] = f"{web.url}/data.zip"
    web.cuts = [5000]
    assert get(url=f"{web.url}/old", sha256=SHA256).sha256 == SHA256
    assert [(path, headers.get("Range")) for path, headers in web.requests] == [
        ("/old", None),
        ("/older", None),
        ("/data.zip", None),
        ("/old", "bytes=5000-"),
        ("/older", "bytes=5000-"),
        ("/data.zip", "bytes=5000-"),
    ]


def test_a_server_without_lengths(get: Get, web: Web) -> None:
    web.lengths = False
    assert get().size == len(CONTENT)


def test_the_proxy_of_the_environment_is_used(
    get: Get, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", web.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert get(url="http://data.invalid/data.zip").sha256 == SHA256
    assert web.requests[0][0] == "http://data.invalid/data.zip"


# -- what changed meanwhile ------------------------------------------------------------------------


def test_a_changed_file_of_the_same_size_on_a_careless_server_is_noticed(
    get: Get, web: Web, target: Path
) -> None:
    cut_off(get, web, sha256=SHA256)
    web.files["/data.zip"] = bytes(len(CONTENT))
    with pytest.raises(InputError, match=r"its sha256 is .* was expected: it was deleted"):
        get(sha256=SHA256)
    assert left(target) == []


def test_a_server_without_ranges_starts_again(get: Get, web: Web) -> None:
    web.ranges = False
    web.cuts = [5000, 7000]
    assert get().sha256 == SHA256
    assert len(web.requests) == 3


def test_without_a_checksum_it_starts_again(get: Get, web: Web) -> None:
    web.cuts = [5000, 7000]
    assert get().sha256 == SHA256
    assert web.asked("Range") == [None, None, None]


@pytest.mark.parametrize(
    ("content", "ranges"),
    [(CONTENT, []), (CONTENT + b"x", [f"bytes={len(CONTENT) + 1}-", None])],
    ids=["whole", "too long"],
)
def test_a_part_that_was_changed(
    get: Get, web: Web, target: Path, content: bytes, ranges: list[str | None]
) -> None:
    cut_off(get, web)
    target.with_name("data.zip.part").write_bytes(content)
    assert get(sha256=SHA256).sha256 == SHA256
    assert web.asked("Range") == [None, *ranges]


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"sha256": "0" * 64}, f"its sha256 is {SHA256}, {'0' * 64} was expected: it was deleted"),
        ({"size": 7}, "has 1,024,000 bytes there, 7 were expected"),
        ({"most": 7}, "has 1,024,000 bytes, at most 7 are taken"),
    ],
)
def test_another_file_than_expected_is_deleted(
    get: Get, target: Path, expected: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        get(**expected)
    assert "\n" not in str(error.value)
    assert left(target) == []


@pytest.mark.parametrize("limit", [{"size": 2_000_000}, {"size": 7}, {"most": 100_000}])
def test_sizes_are_counted_where_none_is_announced(
    get: Get, web: Web, target: Path, limit: dict[str, int]
) -> None:
    web.lengths = False
    with pytest.raises(InputError, match=r"2,000,000 were expected|sends more than"):
        get(**limit)
    assert left(target) == []


def test_what_is_there_already_is_never_overwritten(get: Get, web: Web, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"years of work")
    with pytest.raises(InputError, match=r"is there already and is not http.*: move it away"):
        get(sha256=SHA256)
    assert target.read_bytes() == b"years of work"
    assert web.requests == []


@pytest.mark.parametrize("status", [404, 410, 403, 401])
def test_no_such_file_is_not_asked_for_again(get: Get, web: Web, target: Path, status: int) -> None:
    web.statuses = [status] * 3
    with pytest.raises(InputError, match=f"data.zip: the server says {status}"):
        get()
    assert len(web.requests) == 1
    assert left(target) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(get: Get, web: Web, status: int) -> None:
    web.statuses = [status] * 4
    assert get().sha256 == SHA256
    assert len(web.requests) == 5


def test_a_server_that_stays_busy_is_given_up(get: Get, web: Web) -> None:
    web.statuses = [503] * 9
    with pytest.raises(InputError, match=r"the server says 503 .*\(5 times in a row\)$"):
        get()
    assert len(web.requests) == 5


def test_a_line_that_breaks_often_but_moves_is_not_given_up(get: Get, web: Web) -> None:
    web.cuts = [1000] * 30
    assert get(sha256=SHA256).sha256 == SHA256
    assert len(web.requests) == 31


def test_nobody_answers(tmp_path: Path, web: Web) -> None:
    # a port on which nobody listens
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=r"not reached \(.*refused.*\) \(2 times in a row\)"):
        download(f"http://127.0.0.1:{port}/x", tmp_path / "x", pause=0, attempts=2)


def test_a_server_that_falls_silent_is_left(get: Get, web: Web, tmp_path: Path) -> None:
    import socket
    import threading

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        held: list[socket.socket] = []
        listener = threading.Thread(target=lambda: held.append(silent.accept()[0]), daemon=True)
        listener.start()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(InputError, match=r"not reached \(.*timed out"):
            download(url, tmp_path / "x", pause=0, attempts=1, timeout=0.2)
        for connection in held:
            connection.close()


def test_pauses_grow_and_the_server_may_ask_for_one(
    get: Get, web: Web, monkeypatch: pytest.MonkeyPatch, target: Path
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    web.statuses = [503] * 9
    with pytest.raises(InputError):
        download(f"{web.url}/data.zip", target, pause=1)
    assert pauses == [1, 2, 4, 8]


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("86400", 60), ("soon", 1)])
def test_retry_after(asked: str, waited: float, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = module._retry_after(asked)
    assert min(1 if wait is None else wait, module.LONGEST_PAUSE) == waited


@pytest.mark.parametrize(
    ("goal", "says"),
    [
        *(
            (goal, "the server says 302")
            for goal in ("file:///etc/passwd", "data:,hello", "gopher://x/")
        ),
        ("ftp://data.invalid/x", "redirects to ftp://data.invalid/x, which is refused"),
        ("http://[", r"data.zip: redirects to an address that cannot be read"),
    ],
)
def test_redirections_stay_on_the_web(
    get: Get, web: Web, target: Path, goal: str, says: str
) -> None:
    web.redirects["/data.zip"] = goal
    with pytest.raises(InputError, match=says):
        get()
    assert left(target) == []


def test_redirections_do_not_go_round(get: Get, web: Web) -> None:
    web.redirects["/data.zip"] = "/data.zip"
    with pytest.raises(InputError, match="the server says 302"):
        get()
    assert len(web.requests) < 8


def test_redirections_do_not_leave_encryption() -> None:
    request = urllib.request.Request("https://data.invalid/x")
    headers = http.client.HTTPMessage()
    with pytest.raises(InputError, match=r"redirects to http://data\.invalid/x, which is refused"):
        module._Redirect().redirect_request(
            request, io.BytesIO(), 302, "", headers, "http://data.invalid/x"
        )


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://a/b", "/etc/passwd", "http:///x", "data:,x", "http://[", ""],
)
def test_only_addresses_of_the_web(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not an address of http or https"):
        download(url, tmp_path / "x")
    with pytest.raises(InputError, match="not an address of http or https"):
        read_page(url)
    assert list(tmp_path.iterdir()) == []


def test_packed_answers_are_refused(get: Get, web: Web, target: Path) -> None:
    web.headers["Content-Encoding"] = "gzip"
    with pytest.raises(InputError, match="the server sends it compressed"):
        get()
    assert set(web.asked("Accept-Encoding")) == {"identity"}


def test_a_small_disk_is_noticed_before_the_first_byte(
    get: Get, web: Web, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent.parent)._replace(free=module.RESERVE + 1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"data.zip needs 1.0 MB, 0.3 GB are free"):
        get()
    assert left(target) == []
    # what is here already is not needed once more
    check_space(target, 1_000_000, "it")


# -- pages -----------------------------------------------------------------------------------------


def test_pages(web: Web) -> None:
    assert read_page(web.add("/a", "café".encode())) == "café"
    assert read_page(web.add("/b", "café".encode("latin-1"))) == "café"
    with pytest.raises(InputError, match="more than 3 bytes"):
        read_page(f"{web.url}/a", most=3)
    with pytest.raises(InputError, match="the server says 404"):
        read_page(f"{web.url}/c")
    web.redirects["/d"] = "file:///etc/passwd"
    with pytest.raises(InputError, match="the server says 302"):
        read_page(f"{web.url}/d")
