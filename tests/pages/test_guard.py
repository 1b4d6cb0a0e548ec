"""Who may ask a local page for what."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mmpoison.errors import InputError
from mmpoison.pages import create_app


def app(tmp_path: Path, **options: str | int) -> FastAPI:
    (tmp_path / "index.html").write_text("<p>page")
    made = create_app("test", tmp_path, **options)  # type: ignore[arg-type]

    @made.post("/change")
    def change(body: dict[str, str]) -> dict[str, str]:
        return body

    @made.get("/bad")
    def bad() -> None:
        raise InputError("captions.jsonl line 3: no caption")

    return made


def client(tmp_path: Path, **options: str | int) -> TestClient:
    return TestClient(app(tmp_path, **options), base_url="http://127.0.0.1:8000")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:80"])
def test_own_names(tmp_path: Path, host: str) -> None:
    assert client(tmp_path).get("/", headers={"host": host}).text == "<p>page"


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "evil@localhost",
            "localhost:x",
            "",
        ),
        *(
            "localhost.evil",
            "[::1].evil",
            "[::1]evil",
            "[::1]:8080.evil",
            "[::1].evil:8080",
            "x[::1]",
        ),
        *("localhost:80/evil", "localhost?evil", "localhost\\evil"),
    ],
)
def test_other_names_get_nothing(tmp_path: Path, host: str) -> None:
    answer = client(tmp_path).get("/", headers={"host": host})
    assert answer.status_code == 400
    assert "page" not in answer.text


def test_a_server_for_others_goes_by_addresses_but_no_foreign_name(tmp_path: Path) -> None:
    served = client(tmp_path, host="0.0.0.0")
    assert served.get("/", headers={"host": "192.168.0.7:8000"}).status_code == 200
    for other in ("evil.example", "192.168.0.7.evil", "[fe80::1].evil"):
        assert served.get("/", headers={"host": other}).status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[broken"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
def test_only_the_page_changes_something(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    answer = client(tmp_path).post("/change", json={"a": "b"}, headers=headers)
    assert answer.status_code == status


def test_bodies_have_a_length_and_a_limit(tmp_path: Path) -> None:
    served = client(tmp_path, max_body=20)
    assert served.post("/change", json={"a": "b"}).status_code == 200
    assert served.post("/change", json={"a": "b" * 20}).status_code == 413
    assert served.post("/change", content=iter([b"{}"])).status_code == 411


def test_headers_of_every_answer(tmp_path: Path) -> None:
    served = client(tmp_path)
    refused = served.get("/", headers={"host": "evil.example"})
    for answer in (served.get("/"), served.get("/shared/base.css"), served.get("/no"), refused):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
    assert served.get("/shared/base.css").status_code == 200
    assert served.get("/docs").status_code == 404


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    answer = client(tmp_path).get("/bad")
    assert answer.status_code == 400
    assert answer.json() == {"error": "captions.jsonl line 3: no caption"}


@pytest.mark.parametrize("path", ["/static/../secret", "/static/%2e%2e/secret", "/static//etc"])
def test_static_files_stay_in_their_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "static").mkdir()
    answer = client(tmp_path / "static").get(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text
