"""What the page's server answers, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from mmpoison.datasets import load_pairs
from mmpoison.pages.local_app import STATIC
from mmpoison.pages.search import Collection, Engine
from mmpoison.pages.search.app import images_answer, search_app
from mmpoison.pages.search.library import Job

HOST = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def client(engine: Engine) -> TestClient:
    return TestClient(search_app(engine), base_url=HOST)


@pytest.fixture
def hostile(
    one_model: Callable[[Collection], Engine], own_square_folder: Path, cut_jpeg: bytes
) -> TestClient:
    """Captions with markup and escapes, a class with a control character, a broken image."""
    file = own_square_folder / "captions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["captions"] = ["<script>alert(1)</script> \x1b[31mred\x1b[0m \u202eback"]
        line["label"] = "she\x07ep" if line["label"] == "sheep" else line["label"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (own_square_folder / "sofa" / "08.png").write_bytes(cut_jpeg)
    collection = Collection("a\x1b[1mb", load_pairs(own_square_folder))
    return TestClient(search_app(one_model(collection)), base_url=HOST)


def key(client: TestClient) -> str:
    return str(client.get("/api/state").json()["data"][0]["key"])


def search(client: TestClient, q: str = "a sheep", **options: Any) -> Any:
    answer = client.get(
        "/api/search", params={"data": key(client), "part": "test", "q": q, **options}
    )
    return answer.json() | {"status": answer.status_code}


# -- answers ---------------------------------------------------------------------------------------


def test_a_gallery_that_becomes_ready_while_the_answer_is_made_has_no_results_yet(
    engine: Engine, poisoned: Collection
) -> None:
    answer = engine.images_for(poisoned, "test", "a sheep", shown=4)
    ready = {name: Job("model", print, state="ready") for name in answer.columns}
    late = replace(answer, columns={}, waiting=ready)
    models = images_answer(late, poisoned, engine.library, "test")["models"]
    # "ready" would promise the page ranks and pictures
    assert [model["state"] for model in models] == ["working"] * len(ready)


def test_captions_for_images(client: TestClient, engine: Engine, poisoned: Collection) -> None:
    image = int(poisoned.gallery("all")[0])
    params: dict[str, Any] = {"data": key(client), "part": "all", "original": 2}
    client.get("/api/captions", params={**params, "image": image})
    engine.library.wait()
    answer = client.get("/api/captions", params={**params, "image": image}).json()
    captions = answer["captions"]
    for hit in answer["models"][0]["hits"]:
        assert hit["target"] == (captions[str(hit["item"])]["label"] == "sheep")
    data = (poisoned.pairs.root / poisoned.pairs.images.ids[image]).read_bytes()
    assert client.post("/api/captions", params=params, content=data).json() == answer


# -- images ----------------------------------------------------------------------------------------


def test_images_are_small_jpegs_that_are_kept(client: TestClient) -> None:
    params: dict[str, Any] = {"data": key(client), "image": 3}
    answer = client.get("/api/image", params=params)
    assert answer.headers["content-type"] == "image/jpeg"
    assert "max-age" in answer.headers["cache-control"]
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (40, 36)
    tag = answer.headers["etag"]
    again = client.get("/api/image", params=params, headers={"if-none-match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    large = client.get("/api/image", params={**params, "side": "large"})
    assert large.headers["etag"] != tag


def test_a_changed_image_has_another_tag(hostile: TestClient, own_square_folder: Path) -> None:
    params: dict[str, Any] = {"data": key(hostile), "image": 0}
    before = hostile.get("/api/image", params=params)
    Image.new("RGB", (9, 9)).save(own_square_folder / "aeroplane" / "00.png")
    headers = {"if-none-match": before.headers["etag"]}
    after = hostile.get("/api/image", params=params, headers=headers)
    assert after.status_code == 200
    assert after.headers["etag"] != before.headers["etag"]


def test_a_broken_image_is_a_drawing_that_says_so(hostile: TestClient) -> None:
    collection = hostile.get("/api/state").json()["data"][0]
    ids = range(collection["images"])
    answers = [
        hostile.get("/api/image", params={"data": collection["key"], "image": i}) for i in ids
    ]
    (broken,) = [a for a in answers if a.headers["content-type"] != "image/jpeg"]
    assert broken.status_code == 200
    assert "cannot" in broken.text
    assert broken.headers["x-image-fault"] in ("truncated", "broken")
    assert broken.headers["cache-control"] == "no-store"
    image = answers.index(broken)
    answer = hostile.get("/api/pair", params={"data": collection["key"], "image": image}).json()
    assert answer["fault"] == "the image file cannot be read"
    refused = hostile.get(
        "/api/captions", params={"data": collection["key"], "part": "test", "image": image}
    )
    assert "/" not in refused.json().get("error", "")


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"q": " "}, 400),
        ({"q": "a" * 1500}, 400),
        ({"part": "tset"}, 400),
        ({"data": "0" * 16}, 400),
        ({"target": "class:99"}, 400),
        ({"target": "image:99"}, 400),
        ({"target": "../../etc/passwd"}, 422),
    ],
)
def test_searches_that_are_refused(client: TestClient, change: dict[str, Any], status: int) -> None:
    answer = search(client, **change)
    assert answer["status"] == status
    assert answer["error"]
    assert "\n" not in answer["error"]


@pytest.mark.parametrize("image", ["-1", "56", "1.5", "../captions.jsonl", "99999999999999999999"])
@pytest.mark.parametrize("route", ["image", "pair", "captions"])
def test_only_images_of_the_table_by_number(client: TestClient, route: str, image: str) -> None:
    params = {"data": key(client), "part": "test", "image": image}
    assert client.get(f"/api/{route}", params=params).status_code in (400, 422)


def test_uploads_that_are_refused(
    client: TestClient, huge_png: bytes, cut_jpeg: bytes, engine: Engine
) -> None:
    params = {"data": key(client), "part": "test"}
    buffer = io.BytesIO()
    Image.new("L", (5001, 5000)).save(buffer, "PNG")
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    for data in (b"", svg, huge_png, cut_jpeg, buffer.getvalue()):
        answer = client.post("/api/captions", params=params, content=data)
        assert answer.status_code == 400, data[:10]
        assert "your picture" in answer.json()["error"]
    assert client.post("/api/captions", params=params, content=bytes(11 << 20)).status_code == 413


def test_the_pages_name_no_other_server() -> None:
    for file in (one for ending in ("html", "css", "js") for one in STATIC.rglob(f"*.{ending}")):
        text = file.read_text(encoding="utf-8")
        assert "http:" not in text, file.name
        assert "https:" not in text, file.name
        # text goes in as text
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, file.name


# -- data as strangers wrote them ------------------------------------------------------------------


def test_text_of_the_data_is_plain(hostile: TestClient) -> None:
    state = hostile.get("/api/state").json()["data"][0]
    assert state["name"] == "ab"
    assert state["classes"] == ["aeroplane", "bird", "sheep", "sofa"]
    answer = search(hostile)
    caption = next(iter(answer["images"].values()))["caption"]
    # markup stays what it is, text; whoever shows it must not read it
    assert caption == "<script>alert(1)</script> red back"
    # a class goes by its number, so its odd name does not matter
    code = state["classes"].index("sheep")
    assert search(hostile, target=f"class:{code}")["models"][0]["best_target"]
    params: dict[str, Any] = {"data": state["key"], "part": "test", "label": code}
    assert hostile.get("/api/suggestions", params=params).json()["queries"] == [caption]
