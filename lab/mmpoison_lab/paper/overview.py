"""The view `overview`: the paper's numbers next to ours, and the paper's main differences in words.

Both are read from the pages of the tables and figures; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mmpoison.reporting import Column, Link, Measured, Results, Table, change
from mmpoison.statistics import Summary
from mmpoison_lab.paper.figures import NO_POISON
from mmpoison_lab.paper.page import Page, PaperCell, ends, name_of

Renderers = Mapping[str, Callable[[Results, Page], None]]
Place = tuple[str | int, str]
"""A number in a table: its line's name, or its position among lines of the same data, and its column."""

MAIN = (
    *("Hit@10", "Clean", "Attack I", "Attack II", "Attack III"),
    *("TR Hit@10", "IR Hit@10", "texts", "images", "median distance"),
)
"""The columns of the main numbers, in any table."""


@dataclass(frozen=True)
class Difference:
    """A difference discussed in the paper.

    Attributes:
        words: Description of the subtraction.
        entry: The table or figure that has both numbers.
        number: The minuend.
        less: The subtrahend; None if the number is already a difference.
        digits: Decimal places.
        table: Index of the table on the page.
        among: A name that the line must also have; empty for none.
        printed: The paper's difference by data set, if it is in the text but in no table.
    """

    words: str
    entry: str
    number: Place
    less: Place | None = None
    digits: int = 3
    table: int = 0
    among: str = ""
    printed: Mapping[str, float] = field(default_factory=dict)


OURS, CLEAN = "ours (poisoned model)", "baseline (clean model)"

DIFFERENCES = (
    Difference(
        "Attack I: Hit@10 of the poisoned model, minus the clean model's",
        "table-2", (OURS, "Hit@10"), (CLEAN, "Hit@10"),
    ),
    Difference(
        "Attack II: Hit@10 of the poisoned model, minus the clean model's",
        "table-3", (OURS, "Hit@10"), (CLEAN, "Hit@10"),
    ),
    Difference(
        "Attack III, two goals at once: Hit@10 of the poisoned model, minus the clean model's",
        "table-4", (OURS, "Hit@10"), (CLEAN, "Hit@10"),
    ),
    Difference(
        "Attack II, another data set than the poisoned one: Hit@10 of the poisoned model, minus the clean model's",
        "table-6", (OURS, "Hit@10"), (CLEAN, "Hit@10"),
    ),
    Difference(
        "Utility, Hit@10 of image retrieval: after attack II, minus that of the clean model",
        "table-1", ("IR", "Attack II"), ("IR", "Clean"),
    ),
    Difference(
        "Attack II on one encoder: MinRank with the text encoder trained alone minus that with the image encoder alone",
        "table-5", ("text encoder", "MinRank"), ("image encoder", "MinRank"), digits=2,
    ),
    Difference(
        "Drift after attack II: that of texts, minus that of images",
        "table-11", ("", "texts"), ("", "images"), digits=4,
    ),
    Difference(
        "Drift that attack II adds to a change of order: that of texts, minus that of images",
        "table-11", ("beyond that", "texts"), ("beyond that", "images"), digits=4, table=1,
    ),
    Difference(
        "Attack II at the highest poisoning rate: Hit@10, minus that at the lowest",
        "figure-2", (-1, "Hit@10"), (0, "Hit@10"),
    ),
    Difference(
        "Attack II on all training pairs: Hit@10, minus that on the smallest share at the same rate",
        "figure-5a", (-1, "Hit@10"), (0, "Hit@10"), among="poisoned",
    ),
    Difference(
        "The filter's encoder: median distance of image and caption of poisoned pairs, minus that of clean pairs",
        "figure-6", ("poisoned pairs", "median distance"), ("clean pairs", "median distance"),
    ),
    Difference(
        "The filter before training: Hit@10 of attack II after it, minus that without it",
        "table-16", ("defence (filtered)", "Hit@10"), ("attack II", "Hit@10"),
    ),
    Difference(
        "The repair on clean pairs: Hit@10 of attack II after its first epoch, minus that before",
        "figure-7", (1, "Hit@10"), (0, "Hit@10"), printed={"Flickr-PASCAL": -0.9},
    ),
    Difference(
        "Utility, Hit@10 of image retrieval: after the repair, minus that of the clean model",
        "table-7", ("", "change of IR"),
    ),
)  # fmt: skip
"""The paper's main statements as differences, in page order."""

OWN_ALONE = ("figure-5a",)
"""Figures that put all given runs on one line, even if they differ in more than the line's variable."""

WORDS_NOTE = (
    "Mean of the differences, paired by seed [95% interval]. The paper's differences are those of its printed means, "
    "without an interval, on the named data and with CLIP."
)
NUMBERS_NOTE = (
    "Mean over n seeds [95% interval of the mean], for each number that the paper prints: Hit@10 of the attacker's "
    "captions, utility (tables 1 and 7: Hit@10 of text and image retrieval, TR and IR), drift and distance. Data "
    "sets that the paper lacks show its number for the data set that they replace. Each table's page has every number."
)


def overview(renderers: Renderers, results: Results, page: Page) -> None:
    """Build the page: a sentence for each of `DIFFERENCES`, then a line for each of the paper's main numbers.

    Args:
        renderers: Functions that create the pages of tables and figures, by name.
        results: All rows.
        page: The page.
    """
    pages = {name: list(_pages(name, render, results)) for name, render in renderers.items()}
    said = []
    for one in DIFFERENCES:
        sentence, numbers = in_words(one, pages[one.entry])
        if numbers:
            used = [row for measured in numbers for row in measured.rows]
            said.append((Link(name_of(one.entry), page.source_of(used)), sentence))
    columns = Column("table or figure"), Column("difference", prose=True)
    page.table("The main differences, paired by seed", columns, said, WORDS_NOTE)
    rows = [
        (
            name_of(name), ", ".join(line.names[:-1] or line.names),
            ", ".join([*line.names[1:][-1:], column]),
            cell.measured.n, cell.reference, page.cell(cell.numbers), ends(cell.measured),
        )
        for name, found in pages.items()
        for line in (line for one in found for table in one.tables for line in lines_of(table))
        for column in MAIN
        if (cell := line.cells.get(column)) and cell.measured and cell.reference is not None
    ]  # fmt: skip
    names = ("table", "measured on", "number", "n", "paper", "ours", "95% interval")
    page.table(page.title, [Column(name, interval=False) for name in names], rows, NUMBERS_NOTE)


def _pages(name: str, render: Callable[[Results, Page], None], results: Results) -> Iterator[Page]:
    """Render a table or figure for the runs of each of its recipes, else for each data set."""
    recipes = [one for one in results.values("recipe") if f"{one}-".startswith(f"{name}-")]
    own = [results.only(r for r in results.rows if r["recipe"] == recipe) for recipe in recipes]
    others = [] if name in OWN_ALONE else [rows for _, rows in results.by("data.name")]
    for rows in own or others:
        page = Page(name, "")
        render(rows, page)
        yield page


@dataclass(frozen=True)
class NamedLine:
    """A line of a table.

    Attributes:
        names: The data set, and further names of the line.
        cells: Its compared numbers by column.
        data: The paper's data set of its printed numbers, or empty.
    """

    names: Sequence[str]
    cells: Mapping[str, PaperCell]
    data: str


def lines_of(table: Table) -> Iterator[NamedLine]:
    """Read the lines of a table. A line with only the paper's numbers is named after the paper's data."""
    columns = [column.name for column in table.columns]
    for row in table.rows:
        cells = {
            n: cell for n, cell in zip(columns, row, strict=True) if isinstance(cell, PaperCell)
        }
        if cells:
            data = row[-1] if isinstance(row[-1], str) else ""
            named = row[: columns.index(min(cells, key=columns.index))]
            names = [cell for cell in named if isinstance(cell, str)]
            yield NamedLine([data, *names] if row[0] is None else names, cells, data)


def in_words(one: Difference, pages: Sequence[Page]) -> tuple[str, list[Measured]]:
    """Describe a difference in a sentence: its value on each data set, and in the paper.

    Args:
        one: The difference.
        pages: Pages of its table or figure.

    Returns:
        The sentence, and the measured differences; none if no run has both numbers.
    """
    ours, theirs, numbers = [], [], []
    for names, found, data, value in (side for page in pages for side in _found(one, page)):
        if value is not None:
            theirs.append(f"{data} {value:+.{one.digits}f}".strip())
        if found.summary is not None:
            ours.append(f"{', '.join(names)} {_signed(found.summary, one.digits)}")
            numbers.append(found)
    theirs += [f"{data} {value:+.{one.digits}f}" for data, value in one.printed.items()]
    printed = f"the paper: {', '.join(dict.fromkeys(theirs))}"
    ours.append(printed if theirs else "the paper prints no number")
    return f"{one.words}: {'; '.join(ours)}.", numbers


def _found(
    one: Difference, page: Page
) -> Iterator[tuple[Sequence[str], Measured, str, float | None]]:
    """Find a difference on a page: its name, our value, the paper's data and the paper's value."""
    lines = [line for table in page.tables[one.table :][:1] for line in lines_of(table)]
    first = _at(one.number, one.among, lines)
    second = {} if one.less is None else _at(one.less, one.among, lines)
    for names, line in first.items():
        cell = line.cells[one.number[1]]
        found, printed = cell.numbers, cell.reference
        if one.less is not None:
            if names not in second:
                continue
            less = second[names].cells[one.less[1]]
            found = change(less.numbers, found)
            subtracted = less.reference
            printed = None if printed is None or subtracted is None else printed - subtracted
        measured_on = str(found.rows[0].get("data.name")) if found.rows else names[0]
        yield names if measured_on in names[0] else (measured_on, *names), found, line.data, printed


def _at(
    place: Place, among: str, lines: Sequence[NamedLine]
) -> Mapping[tuple[str, ...], NamedLine]:
    """Find the lines of one side of a difference, keyed by what both sides share: data and goal."""
    name, column = place
    having = [line for line in lines if column in line.cells and among in (*line.names, "")]
    if isinstance(name, str):
        wanted = [line for line in having if name in (*line.names, "")]
        return {tuple(other for other in line.names if other != name): line for line in wanted}
    groups: dict[tuple[str, ...], list[NamedLine]] = {}
    for line in having:
        if NO_POISON not in line.names:
            groups.setdefault((line.names[0],), []).append(line)
    return {names: group[name] for names, group in groups.items() if len(group) > 1}


def _signed(summary: Summary, digits: int) -> str:
    """Format a difference with its interval and number of seeds.

    >>> _signed(Summary(3, 0.5, 0.1, 0.25, 0.75), 2), _signed(Summary(1, -0.5, None, None, None), 1)
    ('+0.50 [+0.25, +0.75] (3 seeds)', '-0.5 (one seed)')
    """
    mean = f"{summary.mean:+.{digits}f}"
    if (found := ends(summary)) is None:
        return f"{mean} (one seed)"
    low, high = (f"{end:+.{digits}f}" for end in found)
    return f"{mean} [{low}, {high}] ({summary.n} seeds)"
