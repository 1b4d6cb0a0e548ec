"""Numbers in prose are those of the generated pages: each by its place."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from mmpoison.errors import InputError

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "lab/docs/results/paper"

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir() or not PAGES.is_dir(), reason="not in a built package"
)


def script(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs/tools"))
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # as it is for a script
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def numbers() -> ModuleType:
    return script("page_numbers")


def test_prose_and_pages_agree(numbers: ModuleType) -> None:
    places = 0
    for file in numbers.texts():
        places += len(numbers.PLACE.findall(file.read_text(encoding="utf-8")))
        assert numbers.renewed(file) == file.read_text(encoding="utf-8"), file
    assert places > 60


def test_a_number_that_differs_is_found_and_mended(numbers: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(
        "| on | steps | n | Hit@10 |\n|---|---|---:|---:|\n"
        "| scenes | 3 | 5 | 0.1234 [0.1, 0.2] |\n| scenes | 5 | 5 | −0.5 |\n"
        "| photos | 3 | 5 | 0.25 ± 0.062 |\n"
    )
    text = tmp_path / "text.md"
    right = (
        "a <!--= page; scenes; 3; Hit@10 -->0.12<!--/--> b <!--= page; scenes; 5; Hit@10 -->−50%<!--/-->"
        " c <!--= page; photos; Hit@10 -->0.2 ± 0.06<!--/-->"
    )
    text.write_text(right.replace("0.12", "0.21").replace("0.06", "0.07"))
    assert numbers.renewed(text, tmp_path) == right
    for broken in ("page; scenes; 7; Hit@10", "page; scenes; 3; Hit@5", "other; scenes; 3; Hit@10"):
        text.write_text(f"<!--= {broken} -->1<!--/-->")
        with pytest.raises(InputError):
            numbers.renewed(text, tmp_path)
    text.write_text("<!--= page; scenes; 3; Hit@10 -->0.12 ± 0.01<!--/-->")
    with pytest.raises(InputError, match="no standard deviation"):
        numbers.renewed(text, tmp_path)


# -- the paper's numbers and ours ----------------------------------------------------------------------------


def test_the_overview_has_the_published_numbers() -> None:
    made = script("paper_overview").overview(PAGES / "runs.parquet", PAGES)
    assert (PAGES / "overview.md").read_text(encoding="utf-8") == script("page_blocks").WIDE + made
