"""Claim by claim: holds, does not hold, undecided, or cannot be tested here; other data are compared, not counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpoison.base import capitalized
from mmpoison.reporting import MAIN, Cell, Column, Link, Measured, Results, Row
from mmpoison_lab.paper.claim import (
    FAILS,
    HOLDS,
    UNDECIDED,
    UNTESTED,
    Claim,
    ClaimResult,
    Verdict,
    all_of,
    one_goal,
)
from mmpoison_lab.paper.claims import ALL_CLAIMS, CLAIMS
from mmpoison_lab.paper.entries import PAPER, Entry
from mmpoison_lab.paper.figures import silhouettes
from mmpoison_lab.paper.measured import ATTACK_2
from mmpoison_lab.paper.page import Page, name_of
from mmpoison_lab.paper.paper_values import ENCODERS, OWN_DATA, TITLES, paper, rows_of
from mmpoison_lab.paper.tables import DEEP_HITS, RATE
from mmpoison_lab.paper.write import Written, in_order, write_page

# -- The paper's own printed numbers as rows of the long table, to test each claim's rule on the paper that made it.
#
# The paper prints no seeds, so there is nothing to make an interval of. Every printed number is taken as exact: a
# difference of two of them is a difference, however small. That is the reading most favourable to the paper, and right
# for the purpose: a rule that says "does not hold" of the very numbers that the claim was read from is a wrong rule, or
# the paper contradicts itself. Each claim is given the table that it names alone, for two tables of the paper can
# differ; what no table has is in the key `printed` of the claim in `paper_values.json`.


ATTACKS = {
    "I": "single-target-image",
    "II": "single-target-label",
    "III": "multiple-target-labels",
}

MODELS = {"baseline": "clean_model", "clean": "clean_model", "defense": "filtered"}
"""The names that the methods of the paper's tables have here; all others are the poisoned model."""

COLUMNS = {
    **{column: column for column in DEEP_HITS},
    "text": "drift.text",
    "image": "drift.image",
    "flops_g": "run.model.flops_g",
    "params_m": "run.model.parameters_m",
}
"""The paper's columns, and those of the long table."""

NO_ORDER = {"order_drift.text": 0.0, "order_drift.image": 0.0}
"""The paper subtracts nothing from drift: that of another order counts as 0."""


def own_numbers(claim: Claim) -> Results:
    """Return the printed numbers that a claim is about; empty where the paper prints none that could be tested."""
    printed = claim.printed or claim.entry
    rows: tuple[Row, ...] = ()
    if not claim.unprinted:
        given = printed_rows(printed) if isinstance(printed, str) else map(_row, printed)
        rows = tuple(given)
    return Results(rows, {row["run"]: _parameters(row) for row in rows}, exact=True)


def printed_rows(table: str) -> Iterator[Row]:
    """Make rows of the long table of a table of the paper."""
    for printed in rows_of(table):
        # "image-trainable (text frozen)", "both-frozen (pre-trained)"
        trained, _, state = str(printed.get("model", "both-trainable")).partition("-")
        model = MODELS.get(str(printed.get("method")), "poisoned")
        cells = {COLUMNS[key]: value for key, value in printed.items() if key in COLUMNS}
        data = str(printed.get("train_dataset", printed.get("dataset", "flickr-pascal")))
        base, balanced, _ = data.partition("-b")
        row = {
            "data.name": next(name for name, own in OWN_DATA.items() if own == base) + balanced,
            "attack.name": ATTACKS[printed.get("attack") or "II"],
            "training.trainable": trained,
            "goal": printed.get("goal", "sheep2aeroplane"),
            "model": "pretrained" if state.startswith("frozen") else model,
            **{column: float(value) for column, value in cells.items() if value is not None},
        }
        yield from map(_row, _as_measured(table, row, printed))


def _as_measured(table: str, row: Row, printed: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Add to a row what distinguishes it from the others of its table."""
    if table == "table-8":
        # the text lost the rates: their places serve as names
        rates = [1, 2, 3] if printed["lr_index"] is None else [printed["lr_index"]]
        model = "poisoned" if printed["lr_index"] is None else "sterilized"
        for rate in rates:
            yield {**row, "model": model, RATE: float(rate)}
    elif table == "table-10":
        names = {encoder: name for name, encoder in ENCODERS.items()}
        yield {**row, "model": "pretrained", "model.name": names[printed["encoder"]]}
    elif table == "table-15":
        yield {**row, "study": "query-length", "x": float(printed["times"])}
    else:
        yield {**row, **NO_ORDER} if "drift.text" in row else row


def _row(cells: Mapping[str, Any]) -> Row:
    """Complete a row of the long table: what it does not say is as in attack II on Flickr-PASCAL."""
    row = {
        "seed": 0,
        "study": MAIN,
        "data.name": "flickr-pascal",
        "model.name": "clip-vit-b32",
        "attack.name": ATTACKS["II"],
        "training.trainable": "both",
        "goal": "sheep2aeroplane",
        **cells,
    }
    row["original"], _, row["target"] = str(row["goal"]).partition("2")
    return {**row, "run": f"paper: {_parameters(row)}"}


def _parameters(row: Row) -> Row:
    names = ("data.", "attack.", "training.", "model.", "sterilize.")
    return {key: value for key, value in row.items() if key.startswith(names)}


PARTS_OF_COCO = ("coco-m", "coco-s")


def groups_of(
    results: Results, *, sizes: bool = False
) -> Iterator[tuple[str, str | None, Results]]:
    """Group rows by data set; balanced data count to the data that they are made of.

    Args:
        results: Of the runs.
        sizes: Take the parts of COCO too.

    Yields:
        The name of the data set, with the model where it is another one than the paper's on the paper's data; the
        paper's data set that it is, None for a twin; the rows.
    """
    found: dict[tuple[str, str | None], list[Row]] = {}
    for row in results.rows:
        base = str(row.get("data.name", "")).removesuffix("-b")
        if base in PARTS_OF_COCO and not sizes:
            continue
        own, model = OWN_DATA.get(base), str(row.get("model.name", ""))
        title = base if own is None else TITLES[own]
        if own is not None and model not in ENCODERS:
            title, own = f"{title}, {model}", None
        found.setdefault((title, own), []).append(row)
    for (name, own), rows in found.items():
        yield name, own, results.only(rows)


@dataclass(frozen=True)
class ClaimAnswer:
    """What some runs say of a claim of the paper.

    Attributes:
        claim: The claim.
        finding: On the data that it names: a finding, or why it cannot be tested here.
        twins: Findings on other data, by name: a comparison.
        own: The findings on each of the data sets that it names, of those that were run, by name.
    """

    claim: Claim
    finding: ClaimResult
    twins: Mapping[str, ClaimResult]
    own: Mapping[str, ClaimResult] = field(default_factory=dict)

    @property
    def counted(self) -> bool:
        """Whether its verdict is counted."""
        return not self.claim.not_counted

    @property
    def by_data(self) -> dict[str, ClaimResult]:
        """The findings on every data set that was run, those that it names first."""
        return {**self.own, **self.twins}


def answer(claim: Claim, results: Results) -> ClaimAnswer:
    """Test a claim on the data that it names, and on others for comparison."""
    own: dict[str, ClaimResult] = {}
    twins: dict[str, ClaimResult] = {}
    for name, of_paper, rows in groups_of(results, sizes=claim.sizes):
        finding = claim.test(rows)
        if finding is None:
            continue
        if name in claim.not_on:
            finding = ClaimResult(UNTESTED, claim.not_on[name])
        # a claim that names no data is about the paper's models
        is_own = of_paper is not None and (not claim.on or of_paper in claim.on)
        (own if is_own else twins)[name] = finding
    missing = [title for data in claim.on if (title := TITLES[data]) not in own]
    if own:
        parts = {f"{data}:": finding for data, finding in own.items()}
        parts |= {f"{data}:": ClaimResult(UNTESTED, "not run") for data in missing}
        return ClaimAnswer(claim, all_of(parts), twins, own)
    data = f" on {' and '.join(missing)}, with CLIP" if missing else ""
    return ClaimAnswer(claim, ClaimResult(UNTESTED, f"needs {claim.needs}{data}"), twins)


def answers(results: Results) -> list[ClaimAnswer]:
    """Test every claim that has a rule, in the order of the paper."""
    return [answer(claim, results) for claim in CLAIMS.values()]


def own_finding(claim: Claim) -> ClaimResult | None:
    """Test a claim on the paper's own numbers, on all the data sets that it names; None where it prints none."""
    numbers = own_numbers(claim)
    return answer(claim, numbers).finding if numbers else None


def counted(found: Iterable[ClaimAnswer]) -> dict[Verdict, int]:
    """Count the verdicts of the claims that count."""
    numbers = Counter(one.finding.verdict for one in found if one.counted)
    return {verdict: numbers[verdict] for verdict in Verdict}


NOTE = (
    "Each claim is tested on the data that it names, with the paper's model; all else is below, as a comparison. "
    "A direction counts only with its paired t-test over seeds (p < 0.05, the 95% interval on one side of 0); no "
    "difference only if the whole interval lies within the margin of the rule. Undecided: the interval holds both "
    "answers, or there is one seed. Where a claim is about a number, the order of size is tested, not the digits."
)
TWINS_NOTE = (
    "The same rules on data that are not the paper's, with models that are not CLIP: whether the pattern comes back, "
    "not whether the paper is right. Nothing of it is counted above. Means over seeds [95% interval]; p: paired, "
    "two-tailed t-test over the seeds."
)


def claims_page(results: Results) -> Page:
    """Build the page of every claim of the paper.

    Args:
        results: Of the runs.
    """
    return page_of(answers(results))


def page_of(found: Sequence[ClaimAnswer]) -> Page:
    """Build the page of claims from their answers."""
    page = Page("claims", "Which claims replicate")
    numbers = counted(found)
    page.notes.append(
        f"Of {sum(numbers.values())} claims that count: "
        + "; ".join(f"{verdict}: {number}" for verdict, number in numbers.items())
        + "."
    )
    twins = Counter(one.verdict for each in found if each.counted for one in each.twins.values())
    if twins:
        page.notes.append(
            "On other data, compared and not counted (a claim on two data sets has two answers): "
            + "; ".join(f"{verdict}: {twins[verdict]}" for verdict in Verdict)
            + "."
        )
    place = Column("no."), Column("where")
    said = Column("claim (the paper's values)", 3, False)
    rule = Column("rule", narrow=False)
    own = Column("the paper's own numbers", narrow=False)
    verdicts = [
        (
            *_said(one.claim),
            f"not counted: {one.claim.not_counted}"
            if not one.counted
            else str(one.finding.verdict),
            Link(one.finding.number, page.source_of(one.finding.rows)),
            one.claim.rule,
            own_words(one.claim),
        )
        for one in found
    ]
    columns = (*place, said, Column("verdict"), Column("measured, or why not"), rule, own)
    page.table("Verdicts", columns, verdicts, NOTE, detail=True)
    compared = [
        (
            *_said(one.claim)[:2],
            data,
            str(finding.verdict),
            Link(finding.number, page.source_of(finding.rows)),
            seeds_behind([finding]),
            one.claim.rule,
        )
        for one in found
        for data, finding in one.twins.items()
    ]
    answered = map(Column, ("measured on", "answer", "measured", "seeds"))
    title = "Comparison: the same rules on other data"
    page.table(title, (*place, *answered, rule), compared, TWINS_NOTE, detail=True)
    others = [_said(claim) for claim in ALL_CLAIMS if claim.id not in CLAIMS]
    title = "Settings and facts of the paper's data, not results"
    page.table(title, (*place, said), others, detail=True)
    return page


def _said(claim: Claim) -> tuple[str, str, str]:
    """Return the number of a claim, where it stands, and what it says with the paper's values."""
    values = ", ".join(
        f"{key} {value if isinstance(value, (int, float, str)) else json.dumps(value)}"
        for key, value in claim.values.items()
        if value is not None
    )
    return claim.id.removeprefix("claim-"), claim.where, f"{claim.claim} ({values})"


def seeds_behind(findings: Iterable[ClaimResult]) -> str | None:
    """Say how many seeds are behind some findings: the fewest and the most; None where nothing was tested.

    >>> three, five = (ClaimResult(HOLDS, "", tuple({"seed": s} for s in range(n))) for n in (3, 5))
    >>> seeds_behind([five, three]), seeds_behind([five]), seeds_behind([ClaimResult(UNTESTED, "")])
    ('3 to 5', '5', None)
    """
    known = [finding.seeds for finding in findings if finding.seeds]
    return " to ".join(dict.fromkeys(str(end(known)) for end in (min, max))) if known else None


def own_words(claim: Claim) -> str:
    """Say what a claim's rule gives on the paper's own printed numbers."""
    own = own_finding(claim)
    if own is None:
        return claim.unprinted
    if claim.contradicted:
        return f"{own.verdict}: the paper contradicts itself. {claim.contradicted}"
    return str(own.verdict)


# -- The paper on one screen: a line for each table and figure, with the answers of the claims that rest on
# it.


LINES = {name: entry for name, entry in PAPER.items() if name_of(name)}
"""The tables and figures that have a line, in the order of the paper."""

SUMMARY_NOTE = (
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


Numbers = Mapping[str, Mapping[str, ClaimResult]]
"""The numbers of `SHOWN` by table or figure, then by data set; nothing is tested on them."""


def numbers_of(results: Results) -> Numbers:
    """Measure the numbers of `SHOWN` on each data set.

    Args:
        results: Of the runs.
    """
    found: dict[str, dict[str, ClaimResult]] = {name: {} for name in SHOWN}
    for data, _, on_data in groups_of(results):
        for name, shown in SHOWN.items():
            measured = [one for one in shown.measure(on_data) if one.summary is not None]
            values = [one.mean for one in measured if one.mean is not None]
            if values:
                rows = tuple(row for one in measured for row in one.rows)
                found[name][data] = ClaimResult(UNTESTED, shown.text(values), rows)
    return found


# -- the page ------------------------------------------------------------------------------------------


def summary_page(found: Sequence[ClaimAnswer], numbers: Numbers) -> Page:
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
    page.table("Each table and figure", columns, rows, in_all + SUMMARY_NOTE)
    return page


def data_of(found: Sequence[ClaimAnswer], numbers: Numbers) -> list[str]:
    """List the data sets that were run: the paper's own first."""
    own = [TITLES[name] for name in dict.fromkeys(OWN_DATA.values())]
    names = dict.fromkeys(name for one in found for name in one.by_data)
    names |= dict.fromkeys(name for measured in numbers.values() for name in measured)
    return sorted(names, key=lambda name: own.index(name) if name in own else len(own))


def _count(claims: Sequence[ClaimAnswer], name: str, *, alone: bool = False) -> str:
    """Count the answers on a data set; `alone`: a single one is said without its number."""
    verdicts = [one.by_data[name].verdict for one in claims if name in one.by_data]
    if alone and len(verdicts) == 1:
        return str(verdicts[0])
    counts = Counter(verdicts)
    return ", ".join(f"{verdict} {counts[verdict]}" for verdict in Verdict if counts[verdict])


def _line(
    entry: Entry,
    found: Sequence[ClaimAnswer],
    numbers: Mapping[str, ClaimResult],
    data: Sequence[str],
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
        seeds = seeds_behind(numbers.values())
    return name_of(entry.name), entry.short, *cells, seeds, f"{capitalized(said)}."


def _decided(one: ClaimAnswer, data: Sequence[str]) -> str:
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


def _unanswered(
    entry: Entry, claims: Sequence[ClaimAnswer], numbers: Mapping[str, ClaimResult]
) -> str:
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
    measured = "; ".join(f"{name} {one.number}" for name, one in numbers.items())
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
    results = in_order(Results.read(runs))
    found = answers(results)
    pages = summary_page(found, numbers_of(results)), page_of(found)
    return [write_page(page, out, links=links) for page in pages]
