"""The paper on one screen: a line for each table and figure, with the answers of the claims that rest on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpoison.base.phrasing import capitalized
from mmpoison.paper.claim import one_goal, seeds_of
from mmpoison.paper.entries import PAPER, Entry
from mmpoison.paper.evidence import FAILS, HOLDS, UNDECIDED, UNTESTED, Verdict
from mmpoison.paper.figures import silhouettes
from mmpoison.paper.measured import ATTACK_2, Measured, Results
from mmpoison.paper.page import Page, name_of
from mmpoison.paper.paper_values import TITLES, paper
from mmpoison.paper.verdicts import (
    OWN_DATA,
    Answer,
    answers,
    groups_of,
    page_of,
    seeds_behind,
    span_of,
)
from mmpoison.paper.write import Written, write_page
from mmpoison.reporting.table import Cell, Column

LINES = {name: entry for name, entry in PAPER.items() if name_of(name)}
"""The tables and figures that have a line, in the order of the paper."""

NOTE = (
    "Counted are the answers of the claims that rest on a table or figure, on each data set that was run. Seeds: the "
    "fewest and the most behind an answer. The sentence says on which data a claim was decided; where it was on none, "
    "that it is undecided or cannot be tested here. On data that a claim does not name, its answer is a comparison "
    "and decides nothing about the paper."
)


# -- numbers of the tables and figures on which no claim is answered -----------------------------------


def _data_sizes(results: Results) -> list[Measured]:
    rows = results.whole_data().where()
    # figure 5 a trains on parts of the set, too
    whole = max(rows.values("run.data.pairs"), default=None)
    return [rows.where(lambda row: row.get("run.data.pairs") == whole).measured("run.data.pairs")]


def _model_sizes(results: Results) -> list[Measured]:
    models = results.where().by("model.name")
    return [rows.measured("run.model.parameters_m") for _, rows in models]


def _drift(results: Results) -> list[Measured]:
    rows = one_goal(results, ATTACK_2, model="poisoned")
    return [rows.measured(f"drift.{kind}") for kind in ("text", "image")]


@dataclass(frozen=True)
class Shown:
    """Which number of a table or figure is shown where no claim is answered on it.

    Attributes:
        words: What it is.
        measure: Measures it on one data set.
        digits: After the point.
        printed: The column of the paper's table that has it; empty where the paper prints none.
    """

    words: str
    measure: Callable[[Results], list[Measured]]
    digits: int = 3
    printed: str = ""

    def text(self, values: Sequence[float]) -> str:
        """Write numbers: from the smallest to the largest where a table has many, else each."""
        if self.printed:
            ends = dict.fromkeys(f"{end(values):,.{self.digits}f}" for end in (min, max))
            return " to ".join(ends)
        return ", ".join(f"{value:,.{self.digits}f}" for value in values)


SHOWN = {
    "table-9": Shown("pairs", _data_sizes, 0, "pairs"),
    "table-10": Shown("parameters in millions", _model_sizes, 1, "params_m"),
    "figure-1": Shown("drift of texts, images", _drift),
    "figure-8": Shown("silhouette of texts, images", silhouettes),
}


@dataclass(frozen=True)
class Number:
    """What was measured of a table or figure on one data set.

    Attributes:
        text: The number, or several.
        seeds: How many seeds are behind it; None where that is not known.
    """

    text: str
    seeds: int | None = None


Numbers = Mapping[str, Mapping[str, Number]]
"""The numbers of `SHOWN` by table or figure, then by data set."""


def numbers_of(results: Results) -> Numbers:
    """Measure the numbers of `SHOWN` on each data set.

    Args:
        results: Of the runs.
    """
    found: dict[str, dict[str, Number]] = {name: {} for name in SHOWN}
    for group in groups_of(results):
        for name, shown in SHOWN.items():
            measured = [one for one in shown.measure(group.results) if one.mean is not None]
            values = [one.mean for one in measured if one.mean is not None]
            if values:
                rows = tuple(row for one in measured for row in one.rows)
                text = shown.text(values)
                found[name][group.name] = Number(text, seeds_of(rows))
    return found


# -- the page ------------------------------------------------------------------------------------------


def summary_page(found: Sequence[Answer], numbers: Numbers) -> Page:
    """Build the page with a line for each table and figure of the paper.

    Args:
        found: The answers of all claims.
        numbers: What was measured where no claim is answered.
    """
    page = Page("summary", "The paper on one screen")
    data = data_of(found, numbers)
    columns = [
        Column("table or figure"),
        Column("what it shows", narrow=False),
        *map(Column, data),
        Column("seeds"),
        Column("what came out", prose=True),
    ]
    rows = [_line(entry, found, numbers.get(name, {}), data) for name, entry in LINES.items()]
    counted = [one for one in found if one.counted]
    totals = [f"{name}: {_count(counted, name) or 'no answer'}" for name in data]
    in_all = f"In all, {'; '.join(totals)}. " if totals else ""
    page.table("Each table and figure", columns, rows, in_all + NOTE)
    return page


def data_of(found: Sequence[Answer], numbers: Numbers) -> list[str]:
    """List the data sets that were run: the paper's own first."""
    own = [TITLES[name] for name in dict.fromkeys(OWN_DATA.values())]
    names = dict.fromkeys(name for one in found for name in one.by_data)
    names |= dict.fromkeys(name for measured in numbers.values() for name in measured)
    return sorted(names, key=lambda name: own.index(name) if name in own else len(own))


def _count(claims: Sequence[Answer], name: str, *, alone: bool = False) -> str:
    """Count the answers on a data set; `alone`: a single one is said without its number."""
    verdicts = [one.by_data[name].verdict for one in claims if name in one.by_data]
    if alone and len(verdicts) == 1:
        return str(verdicts[0])
    counts = Counter(verdicts)
    return ", ".join(f"{verdict} {counts[verdict]}" for verdict in Verdict if counts[verdict])


def _line(
    entry: Entry, found: Sequence[Answer], numbers: Mapping[str, Number], data: Sequence[str]
) -> tuple[Cell, ...]:
    claims = [one for one in found if one.claim.entry == entry.name]
    counted = [one for one in claims if one.counted]
    answered = [one for one in counted if one.by_data]
    cells = [_count(answered, name, alone=True) or None for name in data]
    if answered:
        said = "; ".join(_decided(one, data) for one in answered)
        seeds = seeds_behind(finding for one in answered for finding in one.by_data.values())
    else:
        said = _unanswered(entry, claims, numbers)
        seeds = span_of(one.seeds for one in numbers.values())
    return name_of(entry.name), entry.short, *cells, seeds, f"{capitalized(said)}."


def _decided(one: Answer, data: Sequence[str]) -> str:
    """Say on which data a claim was decided, or that it was on none."""
    verdicts = {name: finding.verdict for name, finding in one.by_data.items()}
    parts = []
    for verdict in (HOLDS, FAILS):
        names = [name for name in data if verdicts.get(name) is verdict]
        if names:
            parts.append(f"{verdict}" if len(names) == len(data) else f"{verdict} on {_all(names)}")
    if not parts:
        parts = [str(UNDECIDED if UNDECIDED in verdicts.values() else UNTESTED)]
    return f"{one.claim.short}: {', '.join(parts)}"


def _all(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _unanswered(entry: Entry, claims: Sequence[Answer], numbers: Mapping[str, Number]) -> str:
    """Say why no claim is answered, and what was measured."""
    needs = dict.fromkeys(one.claim.needs for one in claims if one.counted)
    if needs:
        why = f"not answered here: needs {' and '.join(needs)}"
    else:
        why = "its claims are not counted" if claims else "no claim rests on it"
    shown = SHOWN.get(entry.name)
    if shown is None:
        return why if needs else f"{why}, and no number is compared"
    if not numbers:
        return why if needs else f"{why}; needs {entry.needs}"
    measured = "; ".join(f"{name} {one.text}" for name, one in numbers.items())
    printed = "no number"
    if shown.printed:
        printed = shown.text([row[shown.printed] for row in paper()[entry.name]["rows"]])
    return f"{why}; {shown.words}: {measured}; the paper: {printed}"


def write_claims(runs: Sequence[Path], out: Path, *, links: bool = True) -> list[Written]:
    """Write the summary, and the page of every claim, as Markdown, HTML and JSON.

    Args:
        runs: Run folders, or folders that hold some.
        out: Where the files go.
        links: As for `write_paper`.

    Returns:
        The summary, then the claims.

    Raises:
        InputError: If a folder holds no finished run.
    """
    results = Results.read(runs)
    found = answers(results)
    pages = summary_page(found, numbers_of(results)), page_of(found)
    return [write_page(page, out, links=links) for page in pages]
