"""Checks and updates the numbers in prose that come from generated pages.

    python docs/tools/page_numbers.py            # names every number in docs/ and README.md that differs from its page
    python docs/tools/page_numbers.py --write    # puts the page's number in its place

A number in prose is enclosed by two comments; the first says where the number comes from:

    Hit@10 <!--= table-3; openmoji; ours (poisoned model); Hit@10 -->0.901<!--/-->

The page (below `lab/docs/results/paper/`), then cells of the row, in order, then the column. The number is that of the
page, written with as many digits as the prose shows; a share may be written in percent. `0.901 ± 0.050` between the
comments has the standard deviation, too. Any other text is that of the cell.
A key of a JSON file of `docs/results/`: `performance/ranks; found.peak_gib`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import page_blocks  # noqa: F401 - says where the benchmarks are
from harness import flat
from page_blocks import PAGES, ROOT, check_or_write

from mmpoison.errors import InputError

PLACE = re.compile(r"<!--= (?P<where>[^>]*?) -->(?P<text>[^<]*)<!--/-->")
NUMBER = re.compile(r"[-−+]?\d[\d,]*(?:\.\d+)?")
ALONE = re.compile(rf"{NUMBER.pattern}%?(?: ± [\d.]+)?")
SPREAD = re.compile(r"± (\d[\d.]*)")


@dataclass(frozen=True)
class PageTable:
    """A table of a generated page: the names of its columns, and its rows as text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def line(self, keys: Sequence[str]) -> Mapping[str, str] | None:
        """Return the first row that has these cells in this order, by column; None if there is none.

        The number of seeds, column `n`, is not a key: it could be mistaken for a step or an epoch.
        """
        for row in self.rows:
            named = list(zip(self.columns, row, strict=True))
            rest = iter([cell for name, cell in named if name != "n"])
            if all(key in rest for key in keys):
                return dict(reversed(named))
        return None


@cache
def tables_of(page: Path) -> tuple[PageTable, ...]:
    """Read the tables of a page.

    Raises:
        InputError: If there is no such page.
    """
    if not page.is_file():
        raise InputError(f"{page}: no such page of results")
    found: list[PageTable] = []
    lines: list[tuple[str, ...]] = []
    # earlier pages have a space before a percent sign
    content = re.sub(r"\s+%", "%", page.read_text(encoding="utf-8"))
    for line in [*content.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            lines.append(tuple(cell.strip() for cell in cells))
        elif lines:
            found.append(PageTable(lines[0], tuple(lines[2:])))
            lines = []
    return tuple(found)


class Printed(NamedTuple):
    """A number of a page, and its standard deviation if printed."""

    mean: float
    sd: float | None = None


def read_number(text: str) -> Printed:
    """Read the first number of a cell.

    Raises:
        InputError: If there is none.

    >>> read_number("0.144 ± 0.025 ▼ 0.352"), read_number("25% (10%–40%) of 20").mean
    (Printed(mean=0.144, sd=0.025), 0.25)
    """
    found = NUMBER.search(text)
    if found is None:
        raise InputError(f"{text!r}: no number")
    spread, unit = SPREAD.search(text), 100 if text[found.end() :].startswith("%") else 1
    return Printed(_value(found[0]) / unit, None if spread is None else _value(spread[1]))


def _value(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def cell(page: str, keys: Sequence[str], column: str, pages: Path = PAGES) -> Any:
    """Return a cell of a page, or a value of a JSON file.

    Raises:
        InputError: If the page, the row or the column is not there.
    """
    if (file := ROOT / "docs/results" / f"{page}.json").is_file():
        values = dict(flat(json.loads(file.read_text(encoding="utf-8"))))
        if column in values:
            return values[column]
        raise InputError(f"{page}.json has no {column}")
    for table in tables_of(pages / f"{page}.md"):
        row = table.line(keys) if column in table.columns else None
        if row is not None:
            return row[column]
    raise InputError(f"{page}.md has no row {'; '.join(keys)} with a column {column!r}")


def find(page: str, keys: Sequence[str], column: str, pages: Path = PAGES) -> Printed:
    """Return a number of a page.

    Raises:
        InputError: If there is none.
    """
    found = cell(page, keys, column, pages)
    return read_number(found) if isinstance(found, str) else Printed(float(found))


def written_as(value: float, sample: str) -> str:
    """Format a number like another one: digits, percent, sign.

    >>> written_as(0.9012, "0.9"), written_as(-0.004, "−0.01"), written_as(0.2509, "25%"), written_as(0.015, "+0.02")
    ('0.9', '−0.00', '25%', '+0.01')
    """
    percent = sample.endswith("%")
    shown = NUMBER.search(sample)
    digits = len(shown[0].partition(".")[2]) if shown else 3
    text = f"{100 * value if percent else value:,.{digits}f}"
    if "−" in sample or not text.startswith("-"):
        text = text.replace("-", "−")
    if sample.startswith("+") and value >= 0:
        text = f"+{text}"
    return text + ("%" if percent else "")


def renewed(file: Path, pages: Path = PAGES) -> str:
    """Return a text with its numbers replaced by those of the pages.

    Raises:
        InputError: If a place names no number.
    """

    def put(place: re.Match[str]) -> str:
        return f"<!--= {place['where']} -->{_wanted(place, pages)}<!--/-->"

    return PLACE.sub(put, file.read_text(encoding="utf-8"))


def _wanted(place: re.Match[str], pages: Path) -> str:
    page, *keys, column = (part.strip() for part in place["where"].split(";"))
    if not ALONE.fullmatch(place["text"]):
        return str(cell(page, keys, column, pages))
    found = find(page, keys, column, pages)
    mean, spread, sd = place["text"].partition(" ± ")
    if not spread:
        return written_as(found.mean, mean)
    if found.sd is None:
        raise InputError(f"{page}.md: {'; '.join(keys)}: {column!r} has no standard deviation")
    return f"{written_as(found.mean, mean)} ± {written_as(found.sd, sd)}"


def texts() -> list[Path]:
    """List the texts that may hold such numbers."""
    written = [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "lab/docs").rglob("*.md"),
        ROOT / "README.md",
    ]
    return sorted(file for file in written if PAGES not in file.parents)


if __name__ == "__main__":
    sys.exit(check_or_write({file: renewed(file) for file in texts()}))
