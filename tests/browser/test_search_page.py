"""The search page, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.browser.conftest import ESCAPES, SCRIPT
from tests.conftest import write_jsonl, write_square_pairs
from tests.pages.search.conftest import start

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import load_pairs
from mmpoison.models import load_encoder
from mmpoison.pages.search import Collection, Engine

if TYPE_CHECKING:
    from fastapi import FastAPI
    from playwright.sync_api import Page

ESCAPES_SHOWN = "a red plane"


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares; the first test image has a script and escapes for captions."""
    data = write_square_pairs(tmp_path_factory.mktemp("search") / "squares")
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    test = [line for line in lines if line["split"] == "test"]
    test[0]["captions"] = [SCRIPT, ESCAPES]
    write_jsonl(data, lines)
    return data


@pytest.fixture(scope="module")
def engine(
    hostile_folder: Path,
    checkpoint: Path,
    judge_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Engine]:
    """Two models over a data set with a manifest."""
    pairs = load_pairs(hostile_folder)
    manifest = SingleTargetLabel(goal="sheep2aeroplane", samples=3).poison(pairs).manifest
    library = start(
        {
            "clean": lambda: load_encoder(checkpoint),
            "poisoned": lambda: load_encoder(judge_checkpoint),
        },
        {"hostile": lambda: Collection("hostile", pairs, manifest)},
        tmp_path_factory.mktemp("embeddings"),
    )
    library.wait()
    yield Engine(library)
    library.stop()


@pytest.fixture
def address(engine: Engine, serve_here: Callable[[FastAPI], str]) -> str:
    """The page, served by this process."""
    from mmpoison.pages.search.app import search_app

    return serve_here(search_app(engine))


def search(page: Page, query: str) -> None:
    page.fill("#q", query)
    page.press("#q", "Enter")
    answered(page, query)


def answered(page: Page, query: str) -> None:
    """Wait until the results of a query are shown."""
    page.wait_for_function(
        "query => new URLSearchParams(location.search).get('q') === query"
        " && !document.querySelector('#columns').hasAttribute('aria-busy')"
        " && document.querySelector('.hits')",
        arg=query,
    )


def column(page: Page, name: str) -> Any:
    return page.locator(".column").filter(has=page.get_by_role("heading", name=name, exact=True))


def test_a_query_under_two_models(pages: Any, address: str, engine: Engine) -> None:
    page = pages.open(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.wait_for_selector("#suggestions button")
    # the goal of the manifest is set: captions of sheep, pictures of aeroplanes
    assert page.locator("#suggested-title").inner_text() == "Captions of sheep"
    assert page.locator("#target option:checked").text_content() == "aeroplane"
    search(page, "a sheep in the sun")
    collection = engine.library.collections["hostile"]
    answer = engine.images_for(
        collection, "test", "a sheep in the sun", shown=12, target="class:aeroplane"
    )
    for name, expected in answer.columns.items():
        shown = column(page, name)
        ranks = [text.split()[-1] for text in shown.locator(".rank b").all_inner_texts()]
        assert ranks == [str(hit.rank) for hit in expected.hits]
        sources = [image.get_attribute("src") or "" for image in shown.locator(".hits img").all()]
        assert [int(s.split("image=")[1].split("&")[0]) for s in sources] == [
            hit.item for hit in expected.hits
        ]
        assert shown.locator(".hit.target").count() == expected.targets_shown
        assert f"at rank {expected.best_target}" in shown.locator(".summary").inner_text()
        similarities = shown.locator(".rank .soft").first.inner_text()
        assert f"{expected.hits[0].similarity:.3f}" in similarities
    assert column(page, "clean").locator(".move").count() == 0
    moved = column(page, "poisoned").locator(".move").all_inner_texts()
    for text, hit in zip(moved, answer.columns["poisoned"].hits, strict=True):
        assert hit.was is not None
        places = hit.was - hit.rank
        sign = "▲" if places > 0 else "▼" if places < 0 else "="
        assert sign in text
        assert not places or f"{abs(places)} place" in text
    assert "16" in page.locator("#status").inner_text()
    # the address brings the same results again
    before = page.locator("#columns").inner_text()
    page.reload()
    page.wait_for_selector(".hits")
    assert page.locator("#columns").inner_text() == before
    # nothing was asked of anybody else
    assert all(url.startswith(address) for url in pages.requests)


def test_every_state_is_accessible_and_fits(
    pages: Any,
    address: str,
    serious: Callable[[Page], list[str]],
    too_wide: Callable[[Page], int],
) -> None:
    page = pages.open(viewport={"width": 375, "height": 800}, color_scheme="dark")
    page.goto(address)
    page.wait_for_selector("#suggestions button")
    for step in ("opened", "empty", "results", "options", "captions", "pair", "refused"):
        if step == "opened":
            page.wait_for_selector(".hits")
        elif step == "empty":
            page.fill("#q", "")
            page.press("#q", "Enter")
            page.wait_for_selector("#status.notice")
        elif step == "options":
            page.locator("#options").evaluate("options => { options.open = true; }")
        elif step == "results":
            search(page, "a sheep")
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background != "rgb(255, 255, 255)"
            columns = [c.bounding_box() for c in page.locator(".column").all()]
            assert columns[0]["x"] == columns[1]["x"], "stacked on a phone"
        elif step == "pair":
            page.goto(f"{address}pair?{page.url.split('?')[1]}")
            page.wait_for_selector("#captions table")
        elif step == "captions":
            page.locator(".hit a").first.click()
            page.get_by_role("link", name="Captions for this image").click()
            page.wait_for_selector(".hit.wide")
            assert page.locator("#jump").is_visible()
        elif step == "refused":
            page.goto(f"{address}pair?data=gone&image=0")
            page.wait_for_selector("#alarm:not([hidden])")
            pages.forgive("400 (Bad Request)")
        assert serious(page) == [], step
        assert too_wide(page) == 0, step


def test_captions_are_text(pages: Any, address: str, engine: Engine) -> None:
    collection = engine.library.collections["hostile"]
    image = int(collection.gallery("test")[0])
    page = pages.open()
    page.goto(f"{address}pair?data={collection.key}&image={image}")
    page.wait_for_selector("#captions table")
    rows = page.locator("#captions tbody th").all_inner_texts()
    assert rows == [SCRIPT, ESCAPES_SHOWN]
    assert page.locator("#captions script, #captions img").count() == 0
    # as a query, as an alternative text, as a result
    page.goto(address)
    page.wait_for_selector("#suggestions button")
    search(page, SCRIPT)
    assert SCRIPT in [image.get_attribute("alt") for image in page.locator(".hits img").all()]
    page.goto(f"{address}?data={collection.key}&part=test&image={image}&shown=50")
    page.wait_for_function("() => document.querySelectorAll('.hit.wide').length === 100")
    texts = page.locator(".hit.wide a").all_inner_texts()
    assert SCRIPT in texts
    assert ESCAPES_SHOWN in texts
    # a script would have opened a dialog, which `pages` complains of
