"""The pages of the documentation: all can be reached, none is too long, side bars are short, links lead somewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpoison import load_pairs
from mmpoison.images.sources import image_bytes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    file.relative_to(folder).as_posix(): file
    for folder in (DOCS, ROOT / "lab/docs")
    for file in folder.rglob("*.md")
}
"""The pages of the product and of the laboratory, by their place in the site."""

pytestmark = pytest.mark.skipif(
    not (ROOT / "mkdocs.yml").is_file() or not DOCS.is_dir(), reason="not in a built package"
)

MOST_ENTRIES = 15
MOST_LINES = 185
LONGER = {
    "contracts.md",
    "results/paper/",
    "results/matrix/flickr8k/",
    "results/matrix/openmoji",  # and openmoji-both
}
"""Pages that a command writes."""


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags of Python are of no interest here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def nav() -> list[dict[str, Any]]:
    tabs = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=_Loader)["nav"]
    assert all(isinstance(tab, dict) for tab in tabs)
    return list(tabs)


def files_in(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from files_in(each)


def entries(content: list[Any]) -> tuple[int, int]:
    """How many entries a side bar has with all groups closed, and the most that opening one group adds."""
    groups = [len(one) for each in content if isinstance(each, dict) for one in each.values()
              if isinstance(one, list)]  # fmt: skip
    return len(content), max(groups, default=0)


def test_side_bars_are_short() -> None:
    for tab in nav():
        for name, content in tab.items():
            closed, opened = entries(content)
            assert closed + opened <= MOST_ENTRIES, (name, closed, opened)


def test_entries_are_counted() -> None:
    assert entries(["a.md", {"Group": ["b.md", "c.md", "d.md"]}, {"Page": "e.md"}]) == (3, 3)
    assert entries(["a.md", {"Page": "e.md"}]) == (2, 0)


def test_every_page_is_in_the_navigation_once() -> None:
    there = set(PAGES)
    there |= {f"{file.relative_to(DOCS).with_suffix('.md').as_posix()}" for file in
              DOCS.glob("notebooks/*.ipynb")}  # fmt: skip
    listed = list(files_in(nav()))
    assert len(listed) == len(set(listed))
    assert set(listed) <= there
    missing = {page for page in there - set(listed) if not page.startswith("results/paper/")}
    assert not missing


def test_no_page_is_too_long() -> None:
    long = {
        page: lines
        for page, file in PAGES.items()
        if (lines := len(file.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not {page for page in long if not page.startswith(tuple(LONGER))}, long


def test_the_blocks_that_write_other_formats_run(
    own_square_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("datasets", "webdataset"):
        pytest.importorskip(package, reason="needs the extra data")
    monkeypatch.chdir(tmp_path)
    own_square_folder.rename("photos")
    section = (DOCS / "data-formats.md").read_text("utf-8").partition("## Other formats\n")[2]
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", section.partition("\n## ")[0]):
        exec(block, {})
    pairs = load_pairs("photos")
    for name in ("photos.parquet", "saved", "shards"):
        made = load_pairs(name)
        for line, wanted in zip(made.lines(), pairs.lines(), strict=True):
            data = (pairs.root / wanted["image"]).read_bytes()
            assert image_bytes(made.root, line["image"]) == data
            assert {**line, "image": ""} == {**wanted, "image": ""}


# -- anchors: mkdocs checks files alone -------------------------------------------------------------------------


def anchors_of(text: str) -> set[str]:
    """The names that a page can be entered at: its headings and its own anchors."""
    outside = re.sub(r"(?ms)^```.*?^```", "", text)
    headings = re.findall(r"(?m)^#{1,6} +(.+?) *(?:\{.*\})?$", outside)
    plain = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", each).replace("`", "") for each in headings]
    slugs = {
        re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in plain
    }
    return slugs | set(re.findall(r'<a id="([^"]+)"', outside))


def test_anchors_are_read() -> None:
    text = '# A `b`: c?\n\n```sh\n# not this\n```\n\n## 4. Look [there](x.md)\n<a id="old"></a>\n'
    assert anchors_of(text) == {"a-b-c", "4-look-there", "old"}


def target(place: str, page: str, file: Path) -> Path:
    """The file that a link of a page, or of a file at the top, leads to; a link to the page itself is empty."""
    if file.parent == ROOT:
        return ROOT / page if page else file
    return PAGES[os.path.normpath(Path(place).parent / page)] if page else file


def test_links_to_parts_of_pages_lead_there() -> None:
    checked = 0
    front = {name: ROOT / name for name in ("README.md", "CONTRIBUTING.md")}
    for place, file in [*PAGES.items(), *front.items()]:
        text = re.sub(r"(?ms)^```.*?^```", "", file.read_text(encoding="utf-8"))
        for page, anchor in re.findall(r"\]\(([^)\s#:]*\.md)?#([^)\s]+)\)", text):
            content = target(place, page, file).read_text(encoding="utf-8")
            # names of Python objects are made when the site is built
            if "::: " not in content:
                assert anchor in anchors_of(content), f"{file}: {page}#{anchor}"
                checked += 1
    assert checked >= 25


def test_rows_and_columns_that_pages_name_exist() -> None:
    """They are in the recipe of the matrix, or registered by a page that the same page links to."""
    recipe = (ROOT / "lab/mmpoison_lab/recipes/matrix.yaml").read_text(encoding="utf-8")
    checked = 0
    for place, file in PAGES.items():
        if not re.fullmatch(r"(tasks|results)/[\w-]+\.md", place):
            continue
        text = file.read_text(encoding="utf-8")
        linked = re.findall(r"\]\(([\w-]+\.md)(?:#[\w-]+)?\)", text)
        shown = "".join(target(place, page, file).read_text(encoding="utf-8") for page in linked)
        known = {*re.findall(r"register\(\"([\w-]+)\"\)", shown), *re.findall(r"[\w-]+", recipe)}
        named = ",".join(re.findall(r"--with (?:rows|columns)=([\w,-]+)", text))
        assert set(filter(None, named.split(","))) <= known, file
        checked += bool(named)
    assert checked >= 2
