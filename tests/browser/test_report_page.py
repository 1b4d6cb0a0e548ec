"""The pages of runs and of a scan, in a real browser and without a network."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.browser.conftest import UNFOLD
from tests.reporting.conftest import (
    example_metrics,
    example_rank_lists,
    example_suspicious,
    thumbnail,
)

from mmpoison.records.data_scan import DataScan
from mmpoison.reporting.html_report import write_html
from mmpoison.reporting.scan_page import write_scan_page

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
    ):
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "recipe.yaml").write_text("name: openmoji\n")
    return folder


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
        "worst": [{**pair, "picture": thumbnail("sheep", 0)}],
    }
    scan_page = write_scan_page(folder / "scan.html", DataScan.of(scan))
    return {
        "run": write_html(runs[:1], folder / "out" / "run.html"),
        "sweep": write_html(runs, folder / "out" / "sweep.html"),
        "scan": scan_page,
    }


@pytest.mark.parametrize(
    ("kind", "scheme", "scripts"),
    [("run", "dark", 0), ("sweep", "light", 1), ("scan", "dark", 1)],
)
def test_offline_and_accessible(
    files: dict[str, Path],
    offline_and_accessible: Callable[..., None],
    kind: str,
    scheme: str,
    scripts: int,
) -> None:
    offline_and_accessible(files[kind], scheme, scripts)


def test_captions_are_text(pages: Any, files: dict[str, Path]) -> None:
    page = pages.open()
    for kind in ("run", "scan"):
        page.goto(files[kind].as_uri())
        assert SCRIPT in page.locator("main").inner_text()
    page.goto(files["run"].as_uri())
    page.evaluate(UNFOLD)
    assert r"a \x1b[31mred \u202esheep" in page.locator("main").inner_text()
    assert "possible poisoning: captions about sheep" in page.locator(".goals").inner_text()
