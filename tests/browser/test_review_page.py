"""The review of suspicious pairs, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.browser.conftest import ESCAPES, SCRIPT
from tests.conftest import write_jsonl, write_square_pairs
from tests.scan_results import write_scan_result

from mmpoison.defenses.scan.cut.labels import LabelFile, read_labels
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.pages.review import group_members, review_app, scanned_pairs
from mmpoison.records.data_scan import read_scan

if TYPE_CHECKING:
    from fastapi import FastAPI
    from playwright.sync_api import Page


@pytest.fixture
def filtered(tmp_path: Path) -> Path:
    """A scan's result whose first pairs have a script, escapes and a broken image."""
    data = write_square_pairs(tmp_path / "data", per_class=3, unlabelled=2)
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    lines[0]["captions"][:2] = [SCRIPT, ESCAPES]
    write_jsonl(data, lines)
    (data / lines[1]["image"]).write_bytes(b"no image")
    rows: list[dict[str, Any]] = []
    for line in lines:
        for number, caption in enumerate(line["captions"]):
            place = len(rows)
            rows.append(
                {
                    "pair": f"{line['image']}#{number}",
                    "caption": caption,
                    "score": 1 - place / 100,
                    "drop": place <= 5,
                    "group": 0 if place < 2 else None,
                }
            )
    group = {
        "sentence": f"possible poisoning: captions about {SCRIPT}",
        "why": "about 31 pairs are alike, where about 2.0 would be",
        "other_explanations": ["images that show both", "shifted rows"],
    }
    return write_scan_result(
        tmp_path / "out",
        rows,
        data=str(data),
        groups=[group],
        score_name="evidence against a pair",
    )


@pytest.fixture
def address(filtered: Path, tmp_path: Path, serve_here: Callable[[FastAPI], str]) -> Iterator[str]:
    """The page, served by this process."""
    pairs = scanned_pairs(filtered, PairPieces(tmp_path / "data"), 12)
    with LabelFile(tmp_path / "labels.csv", [pair.pair for pair in pairs]) as labels:
        members = group_members(filtered)
        yield serve_here(
            review_app(
                pairs, labels, title="Suspicious pairs", scan=read_scan(filtered), members=members
            )
        )


def verdicts(tmp_path: Path) -> list[str]:
    return list(read_labels(tmp_path / "labels.csv").values())


def at(page: Page, number: int) -> None:
    """Wait until a pair is shown."""
    page.wait_for_function(
        "number => document.querySelector('#place').textContent === `Pair ${number} of 12`",
        arg=number,
    )


def test_a_review_by_keyboard(pages: Any, address: str, tmp_path: Path) -> None:
    page = pages.open()
    page.goto(address)
    at(page, 1)
    # captions are text: a script is words, an escape is spelled
    assert page.locator("#caption").inner_text() == SCRIPT
    assert page.locator("#caption *").count() == 0
    assert page.locator("#facts").inner_text() == (
        "Evidence against a pair: 1.000, dropped by the scan"
    )
    goal = page.locator("#goal-part")
    assert f"possible poisoning: captions about {SCRIPT}" in goal.inner_text()
    assert goal.locator("script, img").count() == 0
    # one key drops a group
    page.keyboard.press("g")
    at(page, 3)
    assert goal.is_hidden()
    assert verdicts(tmp_path)[:3] == ["drop", "drop", ""]
    page.keyboard.press("z")
    at(page, 1)
    page.keyboard.press("d")
    at(page, 2)
    assert verdicts(tmp_path)[:2] == ["drop", ""]
    assert page.locator("#caption").inner_text() == r"a \x1b[31mred\x1b]0;title\x07 \u202eplane"
    assert "1 of 12 decided" in page.locator("#counts").inner_text()
    assert "drop, saved" in page.locator("#said").inner_text()
    page.keyboard.press("k")
    at(page, 3)
    page.keyboard.press("u")
    at(page, 4)
    assert verdicts(tmp_path)[:4] == ["drop", "keep", "unsure", ""]
    page.keyboard.press("z")
    at(page, 3)
    page.keyboard.press("z")
    at(page, 2)
    assert verdicts(tmp_path)[:4] == ["drop", "", "", ""]
    page.keyboard.press("ArrowRight")
    at(page, 3)
    page.keyboard.press("ArrowLeft")
    at(page, 2)
    page.keyboard.press("ArrowLeft")
    at(page, 1)
    assert page.locator("#drop").get_attribute("aria-pressed") == "true"
    page.keyboard.press("o")
    at(page, 2)
    # buttons are reached with Tab and pressed with Enter
    page.locator("#keep").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    at(page, 3)
    assert verdicts(tmp_path)[:3] == ["drop", "drop", ""]
    for _ in range(10):
        page.keyboard.press("k")
        page.wait_for_timeout(150)
    page.wait_for_function("document.querySelector('#counts').textContent.startsWith('12 of 12')")
    assert verdicts(tmp_path) == ["drop", "drop", *["keep"] * 10]
    for number in range(11, 5, -1):
        page.keyboard.press("ArrowLeft")
        at(page, number)
    page.locator("#no-image").wait_for()  # one of the images is broken
    pages.forgive("404")
    assert {url for url in pages.requests if not url.startswith(address)} == set()


def test_a_group_is_a_grid_of_its_images_with_their_captions(pages: Any, address: str) -> None:
    page = pages.open(viewport={"width": 1440, "height": 900})
    page.goto(address)
    group = page.locator("#group-part")
    group.get_by_text("2 of 2 pairs of this group shown").wait_for()
    # an image once, with its captions; a click goes to the pair
    assert group.locator("li").count() == 1
    second = group.get_by_role("button").nth(1)
    second.click()
    at(page, 2)
    assert second.get_attribute("aria-current") == "true"
    page.keyboard.press("d")
    at(page, 3)
    assert page.locator("#group-keys").is_hidden()
    page.keyboard.press("ArrowLeft")
    at(page, 2)
    group.get_by_text("2 of 2 pairs of this group shown").wait_for()
    assert group.get_by_role("button").nth(1).get_attribute("data-verdict") == "drop"
    # the page is as wide as the window
    box = page.locator("main").bounding_box()
    assert box is not None
    assert box["width"] > 1380
    pages.forgive("404")


def test_a_pair_and_its_verdict_are_on_the_first_screen(
    pages: Any,
    address: str,
    serious: Callable[[Page], list[str]],
    too_wide: Callable[[Page], int],
) -> None:
    height = 800
    page = pages.open(viewport={"width": 1280, "height": height}, color_scheme="dark")
    page.goto(address)
    at(page, 1)
    # an ordinary caption, not the long script of the first pair
    page.keyboard.press("ArrowRight")
    at(page, 2)
    page.evaluate("document.querySelector('#image').decode()")
    footer = page.locator("footer").bounding_box()
    assert footer is not None
    assert footer["y"] + footer["height"] == height
    for part in ("#image", "#caption", "#facts", "#goal"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= footer["y"], part
    assert too_wide(page) == 0
    assert serious(page) == []
    # also on a narrow screen, with a verdict: all buttons stay on it
    page.set_viewport_size({"width": 320, "height": 640})
    for button in page.locator("footer button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 640
    page.keyboard.press("d")
    at(page, 3)
    assert too_wide(page) == 0
    assert page.locator("#keep").bounding_box()["height"] >= 44
    assert serious(page) == []
    pages.forgive("404")


@pytest.mark.slow
def test_killed_and_started_again(
    pages: Any, serve: Callable[..., Any], filtered: Path, tmp_path: Path
) -> None:
    served = serve("review", filtered, "--labels", tmp_path / "labels.csv", "--count", "12")
    page = pages.open()
    page.goto(served.address)
    at(page, 1)
    page.keyboard.press("d")
    at(page, 2)
    served.kill()
    assert verdicts(tmp_path)[:2] == ["drop", ""]
    page.keyboard.press("k")
    page.locator("#trouble").wait_for()
    assert "new verdicts are not saved" in page.locator("#trouble").inner_text()
    # nothing is claimed that is not so
    assert "1 of 12 decided" in page.locator("#counts").inner_text()
    assert verdicts(tmp_path)[:2] == ["drop", ""]
    served.start()
    page.locator("#trouble").wait_for(state="hidden")
    page.keyboard.press("k")
    at(page, 3)
    assert verdicts(tmp_path)[:3] == ["drop", "keep", ""]
    # a page that is opened now begins with what is open
    again = pages.open()
    again.goto(served.address)
    at(again, 3)
    pages.forgive("net::ERR_")
