"""Numbers in prose are those of the generated pages: each by its place."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

from mmpoison.base.phrasing import capitalized
from mmpoison.errors import InputError
from mmpoison_lab.paper import CLAIMS

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/results/paper"

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir() or not PAGES.is_dir(), reason="not in a built package"
)


def script(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
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


# -- the page of claims --------------------------------------------------------------------------------------


def test_the_short_table_of_claims_has_the_short_words() -> None:
    text = (ROOT / "docs/results/index.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"(?m)^\| (.+?) \| <!--= claims; (\d+); openmoji; answer -->.*= claims; (\d+); rsicd-ucm; ",
        text,
    )
    assert rows
    for words, openmoji, photos in rows:
        assert openmoji == photos
        assert words == capitalized(CLAIMS[f"claim-{openmoji}"].short)
    # counted as the page counts them
    said = re.search(
        r"compared and not counted .*?: (holds.*)\.$", (PAGES / "claims.md").read_text(), re.M
    )
    assert said is not None
    assert said[1].replace(":", "").replace(";", ",") in text
