"""The search page, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.browser.conftest import ESCAPES, SCRIPT
from tests.conftest import few, write_jsonl, write_square_pairs
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
    """Squares; the first test image has a script and escapes for captions, the last one is broken."""
    data = write_square_pairs(tmp_path_factory.mktemp("search") / "squares")
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    test = [line for line in lines if line["split"] == "test"]
    test[0]["captions"] = [SCRIPT, ESCAPES]
    write_jsonl(data, lines)
    return data


@pytest.fixture(scope="module")
def engine(
    hostile_folder: Path,
    square_folder: Path,
    checkpoint: Path,
    judge_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Engine]:
    """Two models over two data sets, of which the first one has a manifest."""
    pairs = load_pairs(hostile_folder)
    manifest = SingleTargetLabel(goal="sheep2aeroplane", samples=3).poison(pairs).manifest
    library = start(
        {
            "clean": lambda: load_encoder(checkpoint),
            "poisoned": lambda: load_encoder(judge_checkpoint),
        },
        {
            "hostile": lambda: Collection("hostile", pairs, manifest),
            "plain": lambda: Collection("plain", load_pairs(square_folder)),
        },
        tmp_path_factory.mktemp("embeddings"),
    )
    library.wait()
    # broken only once it is in the gallery, as when a disk fails
    (hostile_folder / "sofa" / "11.png").write_bytes(b"no image")
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


def with_options(page: Page) -> None:
    """Open the options, which are folded at first."""
    page.locator("#options summary").click()
    page.locator("#data").wait_for()


def column(page: Page, name: str) -> Any:
    return page.locator(".column").filter(has=page.get_by_role("heading", name=name, exact=True))


@pytest.mark.parametrize(("width", "height"), [(375, 667), (768, 1024), (1280, 800)])
def test_it_opens_with_an_answer(
    pages: Any, address: str, engine: Engine, width: int, height: int
) -> None:
    page = pages.open(viewport={"width": width, "height": height})
    # a phone has no slash key, and room for nothing but results
    page.goto(address)
    begun = page.evaluate("performance.now()")
    page.wait_for_function(
        "() => document.querySelectorAll('.hits').length === 2"
        " && [...document.querySelectorAll('.hits')].every(hits => {"
        " const image = hits.querySelector('img'); return image.complete && image.naturalWidth > 0; })"
    )
    # the bound is 1 s where nothing else runs; machines that test do other things too
    assert page.evaluate("performance.now()") - begun < 5000
    collection = engine.library.collections["hostile"]
    first = collection.suggestions("test", "sheep")[0]
    assert page.locator("#q").input_value() == first
    pressed = page.locator("#suggestions button[aria-pressed=true]")
    assert pressed.all_inner_texts() == [first]
    answer = engine.images_for(collection, "test", first, shown=12, target="class:aeroplane")
    ranks = [answer.columns[name].best_target for name in ("clean", "poisoned")]
    assert [f"at rank {rank}" for rank in ranks] == page.locator(".summary b").all_inner_texts()
    for hits in page.locator(".hits").all():
        box = hits.locator("img").first.bounding_box()
        assert box is not None
        if width != 768 or hits.locator("img").first == page.locator(".hits img").first:
            assert box["y"] + box["height"] <= height, "results lie within the first screen"
    assert page.locator(".hint").is_visible() == (width > 704)
    # one line says what is chosen until somebody wants to change it
    assert page.locator("#data").is_hidden()
    chosen = page.locator("#options summary")
    assert chosen.inner_text() == "Options: hostile, test (16), aeroplane framed"
    assert chosen.bounding_box()["height"] < 30


def test_an_empty_search_says_what_to_do(pages: Any, address: str) -> None:
    page = pages.open()
    page.goto(address)
    page.wait_for_selector(".hits")
    before = page.locator("#columns").inner_text()
    for nothing in ("", "   "):
        page.fill("#q", nothing)
        page.get_by_role("button", name="Search").click()
        assert page.locator("#status.notice").inner_text() == (
            "Type what the pictures should show, for example: a lamb on the grass."
        )
        assert page.evaluate("document.activeElement.id") == "q"
    assert page.locator("#columns").inner_text() == before
    search(page, "a sofa")
    assert page.locator("#status.notice").count() == 0


def test_what_is_loaded_is_one_quiet_line(pages: Any, address: str, engine: Engine) -> None:
    page = pages.open(viewport={"width": 1280, "height": 800})
    waiting = {"what": "images (test) of hostile under poisoned", "state": "working"}
    held = {"busy": [waiting | {"done": 3, "total": 16}, waiting | {"done": 0, "total": 0}]}

    def still_loading(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | held)

    page.route("**/api/state", still_loading)
    page.goto(address)
    page.wait_for_selector(".hits")
    busy = page.locator("#busy")
    assert busy.inner_text() == (
        "Loading images (test) of hostile under poisoned, 3 of 16; then 1 more …"
    )
    assert busy.bounding_box()["height"] < 30
    top = page.locator(".hits").first.bounding_box()["y"]
    held["busy"] = []
    busy.wait_for(state="hidden")
    assert page.locator("#about").inner_text() == (
        "clean, poisoned over hostile, 56 images; plain, 56 images"
    )
    # nothing jumps when it is done
    assert page.locator(".hits").first.bounding_box()["y"] == top


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
    assert {url.split("/api")[0].split("/static")[0] for url in pages.requests} <= {
        address.rstrip("/"),
        *(u for u in pages.requests if u.startswith(address)),
    }


def test_a_suggested_query_another_frame_and_another_data_set(pages: Any, address: str) -> None:
    page = pages.open(viewport={"width": 1280, "height": 900})
    page.goto(address)
    second = page.locator("#suggestions button").nth(1)
    query = second.inner_text()
    second.click()
    answered(page, query)
    with_options(page)
    page.select_option("#target", label="sofa")
    page.wait_for_function("() => document.querySelector('.summary').textContent.includes('sofa')")
    labels = column(page, "clean").locator(".hit.target .label").all_inner_texts()
    assert labels
    assert all("sofa" in label for label in labels)
    page.select_option("#shown", "6")
    page.wait_for_function("() => document.querySelectorAll('.hits')[0].children.length === 6")
    page.select_option("#part", "all")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.hits')].length === 2"
        " && document.querySelector('#status').textContent.includes('of 55')"
    )
    # the image that broke meanwhile
    assert "1 of 56 images cannot be read" in page.locator("#notes").inner_text()
    page.select_option("#data", label="plain")
    page.wait_for_function(
        "() => document.querySelector('#suggested-title').textContent.includes('any')"
    )
    page.wait_for_selector(".hits")
    # no manifest: nothing is framed until somebody chooses
    assert page.locator(".hit.target").count() == 0


def test_by_keyboard_alone(pages: Any, address: str) -> None:
    page = pages.open(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.wait_for_selector("#suggestions button")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("sheep / sofa")
    # where somebody types, a slash is a slash
    assert page.locator("#q").input_value() == "sheep / sofa"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    answered(page, "sheep / sofa")
    with_options(page)
    page.focus("#q")
    order = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement.id || document.activeElement.closest('.hit')?.tagName"
            " || document.activeElement.textContent"
        )
        order.append(name)
        if name == "LI":
            break
    wanted = ["Search", "data", "part", "original", "target", "shown", "picture", "LI"]
    assert [name for name in order if name in wanted] == wanted
    page.keyboard.press("Enter")
    page.wait_for_selector("#captions table")
    assert page.url.startswith(f"{address}pair?")
    # and back to the same results
    page.focus("#back")
    page.keyboard.press("Enter")
    answered(page, "sheep / sofa")
    assert page.locator("#q").input_value() == "sheep / sofa"


@pytest.mark.parametrize(
    ("width", "scheme"),
    few([(375, "dark"), (1280, "light")], (375, "dark")),
)
def test_every_state_is_accessible_and_fits(
    pages: Any,
    address: str,
    serious: Callable[[Page], list[str]],
    too_wide: Callable[[Page], int],
    scheme: str,
    width: int,
) -> None:
    page = pages.open(viewport={"width": width, "height": 800}, color_scheme=scheme)
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
            assert (background == "rgb(255, 255, 255)") == (scheme == "light")
            columns = [c.bounding_box() for c in page.locator(".column").all()]
            assert (columns[0]["x"] == columns[1]["x"]) == (width == 375), "stacked on a phone"
        elif step == "pair":
            page.goto(f"{address}pair?{page.url.split('?')[1]}")
            page.wait_for_selector("#captions table")
        elif step == "captions":
            page.locator(".hit a").first.click()
            page.get_by_role("link", name="Captions for this image").click()
            page.wait_for_selector(".hit.wide")
            assert page.locator("#jump").is_visible() == (width == 375)
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


def test_a_pair_that_the_manifest_marks(pages: Any, address: str, engine: Engine) -> None:
    collection = engine.library.collections["hostile"]
    assert collection.manifest is not None
    first = collection.manifest.pairs[0]
    image = list(collection.pairs.images.ids).index(first.poisoned_image)
    page = pages.open()
    page.goto(f"{address}pair?data={collection.key}&image={image}")
    page.wait_for_selector("#captions table")
    marked = page.locator("tr.poisoned").filter(has_text=first.caption)
    assert "poison added for sheep2aeroplane" in marked.inner_text()
    assert marked.locator("td").count() == 2
    marked.get_by_role("link").click()
    page.wait_for_selector("#captions td")
    assert page.locator("#title").inner_text() == first.clean_image
    assert "misused for sheep2aeroplane" in page.locator("#captions").inner_text()


def test_a_broken_image_is_said_to_be_broken(pages: Any, address: str, engine: Engine) -> None:
    collection = engine.library.collections["hostile"]
    broken = list(collection.pairs.images.ids).index("sofa/11.png")
    page = pages.open()
    page.goto(f"{address}?q=a+sofa&shown=24")
    page.wait_for_selector(".hits")
    picture = page.locator(f".hits img[src*='image={broken}&']").first
    picture.scroll_into_view_if_needed()
    page.wait_for_function(
        "n => { const i = document.querySelector(`.hits img[src*='image=${n}&']`);"
        " return i.complete && i.naturalWidth === 160; }",
        arg=broken,
    )
    assert "sofa" in (picture.get_attribute("alt") or "")
    page.goto(f"{address}pair?data={collection.key}&image={broken}")
    page.wait_for_selector("#picture .notice")
    assert "cannot be read" in page.locator("#picture .notice").inner_text()
    assert page.locator("#captions tbody tr").count() == 5


def test_a_picture_of_ones_own(pages: Any, address: str, square_folder: Path) -> None:
    page = pages.open()
    page.goto(address)
    page.wait_for_selector("#suggestions button")
    page.set_input_files("#picture", square_folder / "sheep" / "00.png")
    page.wait_for_selector(".hit.wide")
    assert page.locator("#asked img").get_attribute("alt") == "your picture"
    page.wait_for_function("() => document.querySelector('#asked img').naturalWidth === 40")
    assert "captions of" in page.locator("#status").inner_text()
    page.set_input_files(
        "#picture", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"}
    )
    page.wait_for_selector("#status.notice")
    assert "your picture" in page.locator("#status").inner_text()
    assert page.locator(".hits").count() == 0
    pages.forgive("400 (Bad Request)")


def test_a_second_query_overtakes_the_first(pages: Any, address: str) -> None:
    page = pages.open()
    page.goto(address)
    page.wait_for_selector("#suggestions button")
    held: list[Any] = []
    page.route("**/api/search?*q=slow*", lambda route: held.append(route))
    page.fill("#q", "slow")
    page.press("#q", "Enter")
    page.wait_for_function("() => document.querySelector('#columns').hasAttribute('aria-busy')")
    search(page, "a sofa")
    before = page.locator("#columns").inner_text()
    held[0].continue_()
    page.wait_for_timeout(500)
    assert page.locator("#columns").inner_text() == before
    assert "a+sofa" in page.url


@pytest.mark.slow
def test_the_server_is_killed_and_started_again(
    pages: Any, serve: Callable[..., Any], square_folder: Path, checkpoint: Path
) -> None:
    served = serve(
        *("search", "--models", f"one={checkpoint}", f"two={checkpoint}", "--data", square_folder)
    )
    page = pages.open()
    page.set_default_timeout(90_000)
    # the page is there while the models are still loading, and goes on by itself
    page.goto(f"{served.address}?q=a+sheep")
    page.wait_for_function("() => document.querySelectorAll('.hits').length === 2")
    served.kill()
    page.fill("#q", "a bird")
    page.press("#q", "Enter")
    page.wait_for_selector("#alarm:not([hidden])")
    assert "does not answer" in page.locator("#alarm").inner_text()
    # what was there before can still be read
    assert page.locator(".hits").count() == 2
    served.start()
    page.wait_for_selector("#alarm", state="hidden")
    page.wait_for_function(
        "() => document.querySelectorAll('.hits').length === 2 && location.search.includes('a+bird')"
        " && document.querySelector('#busy').hidden"
    )
    # how the browser names a lost connection depends on the moment at which it is lost
    pages.forgive("net::ERR_")
