"""The pages of a matrix and of a table of the paper, in a real browser and without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.browser.conftest import *  # noqa: F403
from tests.browser.conftest import UNFOLD
from tests.reporting.conftest import synthetic_run

from mmpoison_lab.matrix.page import matrix_html
from mmpoison_lab.paper.write import write_paper

from .test_pages import cells_of, facts, summary_of

SCRIPT = "<script>alert('caption')</script><img src=https://example.org/x onerror=alert(1)>"


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    cells = [
        one
        for row in ("II", SCRIPT)
        for name, value in (("none", 0.9), ("filter", 0.05), (SCRIPT, 0.5))
        for one in cells_of(row, name, [value] * 6, needs=SCRIPT, note=SCRIPT)
    ]
    file = tmp_path / "matrix.html"
    shown = facts("filter", SCRIPT, rows=["II", SCRIPT])
    file.write_text(matrix_html(summary_of(shown, cells)))
    return file


def test_a_matrix_is_sorted_and_unfolded(
    pages: Any, matrix: Path, offline_and_accessible: Callable[..., None]
) -> None:
    offline_and_accessible(matrix, "light", scripts=1)
    page = pages.open()
    page.goto(matrix.as_uri())
    assert SCRIPT in page.locator("main").inner_text()
    names = page.locator(".sortable tbody th")
    for column, way, first in (
        *(("success", "ascending", "filter"), ("success", "descending", "none")),
        ("change", "ascending", "filter"),
    ):
        head = page.locator(".sortable th", has_text=column)
        head.locator("button").press("Enter")
        assert (head.get_attribute("aria-sort"), names.first.inner_text()) == (way, first)
    assert page.locator("[aria-sort=none]").count() == 6
    # it has no change
    assert names.last.inner_text() == "none"
    assert not page.locator("#pieces-ii").is_visible()
    page.locator(".map a[href='#pieces-ii']").first.click()
    assert page.locator("#pieces-ii").is_visible()


def test_a_table_of_the_paper_is_not_cut_off(
    pages: Any, tmp_path: Path, offline_and_accessible: Callable[..., None]
) -> None:
    seeds = [synthetic_run(tmp_path / f"{seed}", seed=seed) for seed in range(3)]
    write_paper(["table-3"], seeds, tmp_path / "out")
    file = tmp_path / "out" / "table-3.html"
    offline_and_accessible(file, "light")
    page = pages.open(viewport={"width": 1200, "height": 800})
    page.goto(file.as_uri())
    page.evaluate(UNFOLD)
    tables = page.locator(".scroll:has(table.compared)")
    assert tables.count()
    for table in tables.all():
        assert table.evaluate("e => e.scrollWidth - e.clientWidth") == 0
    assert "Attack II" in tables.first.inner_text()
