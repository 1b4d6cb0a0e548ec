"""The pages of runs and of a scan, in a real browser and without a network."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.browser.conftest import UNFOLD
from tests.reporting.conftest import (
    example_curve,
    example_metrics,
    example_rank_lists,
    example_suspicious,
    thumbnail,
)

from mmpoison.records.data_scan import DataScan
from mmpoison.reporting.html_report import write_html
from mmpoison.reporting.scan_result import write_scan_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCRIPT = "<script>alert('caption')</script><img src=https://example.org/x onerror=alert(1)>"


def write_run(folder: Path, seed: int, **about: Any) -> Path:
    folder.mkdir(parents=True)
    metrics = copy.deepcopy(example_metrics())
    metrics["run"] |= {"seed": seed, **about}
    suspicious = example_suspicious()
    suspicious[0]["caption"] = SCRIPT
    suspicious[1]["caption"] = "a \x1b[31mred \u202esheep"
    for name, value in (
        ("metrics", metrics),
        ("rank_lists", example_rank_lists()),
        ("suspicious_pairs", suspicious),
        ("sterilize-curve", example_curve()),
    ):
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "recipe.yaml").write_text("name: openmoji\n")
    return folder


def write_setting(folder: Path, goal: str, samples: int, seed: int) -> Path:
    """A run of a sweep, with a row for every defence and numbers that differ between seeds."""
    metrics = copy.deepcopy(example_metrics())
    rows = metrics["goal"].pop("sheep2aeroplane")
    rows["robust"] = dict(rows["filtered"])
    for row in rows.values():
        row["hit@10"] = round(row["hit@10"] * (1 - 0.1 * seed), 3)
        row["min_rank"] = 7 * row["min_rank"] + seed * samples
    metrics["goal"][goal] = rows
    metrics["utility"]["robust"] = metrics["utility"]["filtered"]
    metrics["run"] |= {"seed": seed, "goals": [goal], "poisoned_pairs": samples}
    run = folder / f"{goal}-{samples}-seed{seed}"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "rank_lists.json").write_text(json.dumps(example_rank_lists()))
    recipe = f"name: openmoji\nattack:\n  goal: {goal}\n  samples: {samples}\n"
    (run / "recipe.yaml").write_text(recipe)
    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each page as a file of its own, somewhere else than its run."""
    folder = tmp_path_factory.mktemp("reports")
    goal = {
        "sentence": f"possible poisoning: captions about sheep paired with images of {SCRIPT}: 98 pairs",
        "example_captions": [SCRIPT],
    }
    filtered = example_metrics()["run"].get("filter", {}) | {"suspected_goals": [goal]}
    runs = [write_run(folder / f"seed{seed}", seed, filter=filtered) for seed in range(2)]
    pair = {"id": "a\x1b.png#0", "caption": SCRIPT, "score": 1.2}
    scan = {
        **{"source": SCRIPT, "format": "pairs-folder", "pairs": 9, "dropped": 1},
        **{"verdict": "cannot be decided", "summary": [SCRIPT], "method": "relevance-filter"},
        "next_steps": ["Look at the pairs: mmpoison review scan --labels labels.csv"],
        "worst": [{**pair, "picture": thumbnail("sheep", 0)}],
        "planted": [
            {"images": 1000, "planted": 6, "found": 5},
            {"images": 50, "planted": 6, "found": 1},
        ],
    }
    scan_page = write_scan_page(folder / "scan.html", DataScan.of(scan))
    many = [
        write_setting(folder / "many", goal, samples, seed)
        for goal in ("sheep2aeroplane", "diningtable2pottedplant")
        for samples in (5, 125)
        for seed in range(3)
    ]
    return {
        "run": write_html(runs[:1], folder / "out" / "run.html"),
        "sweep": write_html(runs, folder / "out" / "sweep.html"),
        "scan": scan_page,
        "settings": write_html(many, folder / "out" / "settings.html"),
    }


def test_no_table_is_cut_off(pages: Any, files: dict[str, Path]) -> None:
    page = pages.open(viewport={"width": 1200, "height": 800})
    for kind, tables in (
        ("settings", ".scroll"),
        ("run", ".scroll"),
    ):
        page.goto(files[kind].as_uri())
        if kind == "settings":
            head = page.locator(tables).first.locator("th[scope=col]").all_inner_texts()
            assert {"Poisoned Hit@10", "Robust Hit@10", "Sterilized MinRank"} <= set(head)
            # the parts of a table that was divided begin with the names of the rows
            parts = page.locator(".scroll.next th[scope=col]:first-child").all_inner_texts()
            assert set(parts) == {"Setting", "Model"}
        else:
            page.evaluate(UNFOLD)
        assert page.locator(tables).count()
        for table in page.locator(tables).all():
            assert table.evaluate("e => e.scrollWidth - e.clientWidth") == 0


def test_a_run_is_short_and_a_phone_shows_all(pages: Any, files: dict[str, Path]) -> None:
    page = pages.open(viewport={"width": 1280, "height": 800})
    page.goto(files["run"].as_uri())
    assert page.evaluate("document.scrollingElement.scrollHeight") <= 4000
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.locator(".scroll").first.evaluate("e => e.scrollWidth - e.clientWidth") == 0
    page.goto(files["scan"].as_uri())
    columns = page.locator(".sheet").first.evaluate("e => getComputedStyle(e).gridTemplateColumns")
    assert len(columns.split()) == 2


def test_a_sweep_on_a_small_screen(
    pages: Any, files: dict[str, Path], too_wide: Callable[[Page], int]
) -> None:
    page = pages.open(viewport={"width": 375, "height": 800})
    page.goto(files["settings"].as_uri())
    assert too_wide(page) == 0
    table = page.locator(".scroll").first
    name = table.locator("tbody th").first
    left = name.bounding_box()
    table.evaluate("e => e.scrollTo(200, 0)")
    moved = table.evaluate("e => e.scrollLeft")
    assert moved > 0
    # the names of the rows stay where they are
    assert name.bounding_box()["x"] == left["x"]


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("run", "dark"), ("settings", "light"), ("scan", "dark")],
)
def test_offline_and_accessible(
    files: dict[str, Path], offline_and_accessible: Callable[..., None], kind: str, scheme: str
) -> None:
    offline_and_accessible(files[kind], scheme, scripts=1)


@pytest.mark.parametrize(
    ("kind", "column", "lowest"),
    [
        ("settings", "Setting", "diningtable2pottedplant, 5 poisoned"),
        ("scan", "Images per goal", "50"),
    ],
)
def test_rows_sort(pages: Any, files: dict[str, Path], kind: str, column: str, lowest: str) -> None:
    page = pages.open()
    page.goto(files[kind].as_uri())
    head = page.locator(".sortable th", has_text=column).first
    first = page.locator(".sortable").first.locator("tbody tr > *:first-child")
    for way, least in (("ascending", True), ("descending", False)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == way
        shown = first.all_inner_texts()
        # by number: 5 before 125 in a name, and 50 before 1,000
        assert shown[0 if least else -1].startswith(lowest)


def test_a_command_is_copied_with_one_click(pages: Any, files: dict[str, Path]) -> None:
    page = pages.open(permissions=["clipboard-read"])
    for kind in ("run", "sweep", "scan"):
        page.goto(files[kind].as_uri())
        page.evaluate(UNFOLD)
        command = page.locator("pre").first
        command.get_by_role("button", name="Copy").click()
        assert command.get_by_role("button", name="Copied").count() == 1
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == command.locator("code").inner_text()
        assert copied.startswith("mmpoison ")


def test_captions_are_text(pages: Any, files: dict[str, Path]) -> None:
    page = pages.open()
    for kind in ("run", "scan"):
        page.goto(files[kind].as_uri())
        assert SCRIPT in page.locator("main").inner_text()
    page.goto(files["run"].as_uri())
    page.evaluate(UNFOLD)
    assert r"a \x1b[31mred \u202esheep" in page.locator("main").inner_text()
    assert "possible poisoning: captions about sheep" in page.locator(".goals").inner_text()


def test_prints(pages: Any, files: dict[str, Path]) -> None:
    page = pages.open(color_scheme="dark")
    page.goto(files["run"].as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    # ink on paper, whatever the screen was like
    style = "getComputedStyle(document.body)"
    assert page.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
    assert page.locator(".scroll").first.evaluate("e => getComputedStyle(e).overflowX") == "visible"
    assert page.pdf().startswith(b"%PDF")
