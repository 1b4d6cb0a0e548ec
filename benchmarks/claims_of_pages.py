"""Write the pages of claims from the other pages of results, where the runs themselves are no longer there.

    python benchmarks/claims_of_pages.py     # docs/results/paper/claims.md, summary.md, and its table in index.md

`make reproduce` writes these pages from the runs. The runs of 0.1.0 were not kept; their pages have means with
intervals, and figure 5b every goal in `runs.parquet`. Where a page prints p of a paired test, the interval of a
difference follows from it. Where it does not, the widest interval that any pairing of the seeds could give is taken:
the sum of the two. So a verdict that comes out is one that the runs would have given, but for rounding; some of theirs
stay undecided. Seeds are counted in the column n of the pages, and where there is none, in `runs.parquet`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from page_blocks import WIDE, for_docs, summary_of, with_block
from page_numbers import PAGES, Printed, find, tables_of
from scipy import stats

from mmpoison.base.files import atomic_file
from mmpoison.errors import InputError
from mmpoison.paper.claim import seeds_of
from mmpoison.paper.claims import CLAIMS, Finding
from mmpoison.paper.defence_claims import GONE, LIKE_CLEAN, UTILITY_LOSS
from mmpoison.paper.encoder_claims import NO_ORDER_DRIFT, SAME_HIT_1
from mmpoison.paper.evidence import (
    Interval,
    Verdict,
    every,
    is_above,
    is_at_least,
    is_at_most,
    is_within,
    most,
)
from mmpoison.paper.measured import Results
from mmpoison.paper.summary import SHOWN, Number, Numbers, summary_page
from mmpoison.paper.verdicts import Answer, answers, page_of
from mmpoison.paper.write import write_page
from mmpoison.reporting.text import decimal
from mmpoison.statistics import clustered_share

TWINS = {"openmoji": "sheep2aeroplane", "rsicd-ucm": "airplane2beach"}
CLEAN, POISONED = "baseline (clean model)", "ours (poisoned model)"

NOTE = (
    "The runs behind these comparisons are those of 0.1.0 and were not kept. The answers are computed from the means "
    "and intervals of the other pages (python benchmarks/claims_of_pages.py): a difference has the interval of its "
    "printed p, or the widest that any pairing of the seeds could give. The next make reproduce tests the runs."
)

Rule = Callable[[str], Finding]
RULES: dict[str, Rule] = {}


def rule(number: int) -> Callable[[Rule], Rule]:
    """Add what the pages say of a claim, on one twin."""

    def decorate(test: Rule) -> Rule:
        RULES[f"claim-{number:02}"] = test
        return test

    return decorate


def ends_of(one: Printed) -> Interval | None:
    """Return the interval of a number."""
    return None if one.low is None or one.high is None else (one.low, one.high)


def gap(first: Printed, second: Printed, times: float = 1.0) -> Interval | None:
    """Return the widest interval of the second number less a multiple of the first, over all pairings of the seeds.

    The standard deviation of a difference is at most the sum of the two, and both intervals are as many of theirs.
    """
    one, two = ends_of(first), ends_of(second)
    if one is None or two is None:
        return None
    difference = second.mean - times * first.mean
    half = (two[1] - two[0]) / 2 + times * (one[1] - one[0]) / 2
    return difference - half, difference + half


def gap_of_p(difference: float, p: float, n: int) -> Interval | None:
    """Return the interval of a paired difference from p of its two-tailed t-test over n seeds."""
    if difference == 0 or not 0 < p < 1:
        return None
    t = float(stats.t.isf(p / 2, n - 1))
    half = abs(difference) / t * float(stats.t.ppf(0.975, n - 1))
    return difference - half, difference + half


def shown(one: Printed, digits: int = 3) -> str:
    """Write a number with its interval."""
    ends = ends_of(one)
    text = decimal(one.mean, digits)
    return text if ends is None else f"{text} [{', '.join(decimal(end, digits) for end in ends)}]"


def said(first: Printed, second: Printed, digits: int = 3, p: float | None = None) -> str:
    """Write two numbers that are compared."""
    text = f"{shown(first, digits)} to {shown(second, digits)}"
    return text if p is None else f"{text}, p = {p:.2g}"


def _finding(verdict: Verdict, text: str, *used: Printed) -> Finding:
    """Make a finding from the numbers that it compares; its seeds are the fewest of theirs that are printed."""
    return Finding(verdict, text, (), fewest_seeds(used))


def fewest_seeds(used: Iterable[Printed]) -> int | None:
    """Return the fewest seeds that are printed of some numbers."""
    return min((one.n for one in used if one.n is not None), default=None)


def _models(twin: str, table: str, column: str, goal: str = "") -> tuple[Printed, Printed]:
    keys = [twin, goal or TWINS[twin.removesuffix("-b")]]
    before, after = (find(table, [*keys, model], column) for model in (CLEAN, POISONED))
    return before, after


@rule(1)
def _hit_5(twin: str) -> Finding:
    _, hit = _models(twin, "table-2", "Hit@5")
    return _finding(is_at_least(ends_of(hit), 0.918 - 0.1), shown(hit), hit)


@rule(11)
def _retrieval(twin: str) -> Finding:
    before, after = (find("table-1", [twin, "IR"], c) for c in ("Clean", "Attack II"))
    return _finding(is_above(gap(before, after), 0), said(before, after), before, after)


@rule(12)
def _tenth(twin: str) -> Finding:
    before, after = _models(twin, "table-2", "MinRank")
    verdict = is_at_least(gap(after, before, 10), 0)
    return _finding(verdict, said(before, after, 1), before, after)


@rule(13)
def _hit_1(twin: str) -> Finding:
    parts, texts, used = [], [], []
    for column in ("Hit@1", "Hit@5", "Hit@10", "MinRank"):
        before, after = _models(twin, "table-3", column)
        falls = column in ("Hit@1", "MinRank")
        parts.append(is_above(gap(after, before) if falls else gap(before, after), 0))
        texts.append(f"{column} {said(before, after, 1 if column == 'MinRank' else 3)}")
        used += [before, after]
    return _finding(every(parts), "; ".join(texts), *used)


@rule(14)
def _both_goals(twin: str) -> Finding:
    second = {"openmoji": "sofa2bird", "rsicd-ucm": "tenniscourt2forest"}[twin]
    parts, texts, used = [], [], []
    for goal in (TWINS[twin], second):
        before, after = _models(twin, "table-4", "MinRank", goal)
        parts.append(is_above(gap(after, before), 0))
        texts.append(f"{goal} {said(before, after, 1)}")
        used += [before, after]
    return _finding(every(parts), "; ".join(texts), *used)


def _no_order(twin: str) -> Finding:
    return _finding(Verdict.UNTESTED, NO_ORDER_DRIFT)


for _number in (15, 50, 53):
    rule(_number)(_no_order)


def _frozen(twin: str, first: str, second: str, column: str) -> tuple[Printed, Printed, float]:
    """Return two kinds of training of table 12, and p of their test."""
    one, other = (find("table-12", [twin, TWINS[twin], kind], column) for kind in (first, second))
    return one, other, _p(twin, first, second, column)


def _p(twin: str, first: str, second: str, column: str) -> float:
    """Return p of a test of table 12; NaN where it has no spread, and 0.0001 where it is smaller."""
    for table in tables_of(PAGES / "table-12.md"):
        if "models" in table.columns:
            for pair in (f"{first}, {second}", f"{second}, {first}"):
                text = table.cell([twin, pair], column)
                if text is not None:
                    return math.nan if text == "–" else float(text.removeprefix("< "))
    raise InputError(f"table-12.md has no test of {first} and {second} on {twin}")


@rule(17)
def _rank(twin: str) -> Finding:
    image, text, p = _frozen(twin, "image encoder", "text encoder", "MinRank")
    ends = gap_of_p(text.mean - image.mean, p, 5)
    return _finding(is_above(ends, 0), said(image, text, 2, p), image, text)


@rule(18)
def _first_hit(twin: str) -> Finding:
    text, image, p = _frozen(twin, "text encoder", "image encoder", "Hit@1")
    ends = gap_of_p(text.mean - image.mean, p, 5)
    return _finding(is_above(ends, 0), said(text, image, 3, p), text, image)


@rule(44)
def _both_modalities(twin: str) -> Finding:
    rank, hit = _rank(twin), _first_hit(twin)
    text = f"MinRank image, text: {rank.number}; Hit@1 text, image: {hit.number}"
    return replace(rank, verdict=every([rank.verdict, hit.verdict]), number=text)


COLUMNS = ("Hit@1", "Hit@5", "Hit@10", "Hit@20", "Hit@30", "Hit@50", "MinRank")
KINDS = ("both trained", "image encoder", "text encoder", "pre-trained")


@rule(19)
def _best(twin: str) -> Finding:
    parts, best, used = [], [], []
    for column in COLUMNS:
        better = []
        for other in ("image encoder", "text encoder"):
            both, against, p = _frozen(twin, "both trained", other, column)
            used += [both, against]
            more = both.mean - against.mean
            if column == "MinRank":
                more = -more
            # without a spread both are the same in every seed: they share the place
            ends = (more, more) if math.isnan(p) else gap_of_p(more, p, 5)
            better.append(is_at_least(ends, 0))
        parts.append(every(better))
        if parts[-1] is Verdict.HOLDS:
            best.append(column)
    undecided = parts.count(Verdict.UNDECIDED)
    text = (
        f"best in {len(best)} of {len(parts)}: {', '.join(best) or 'none'}; undecided: {undecided}"
    )
    return _finding(most(parts), text, *used)


@rule(51)
def _table_12(twin: str) -> Finding:
    both, text, p = _frozen(twin, "both trained", "text encoder", "Hit@1")
    ends = gap_of_p(text.mean - both.mean, p, 5)
    others = [
        _p(twin, first, second, column)
        for place, first in enumerate(KINDS)
        for second in KINDS[place + 1 :]
        for column in COLUMNS
        if (first, second, column) != ("both trained", "text encoder", "Hit@1")
    ]
    significant, untested = sum(p < 0.05 for p in others), sum(map(math.isnan, others))
    rest = Verdict.HOLDS
    if significant < len(others):
        rest = Verdict.FAILS if significant + untested < len(others) else Verdict.UNDECIDED
    said_ = (
        f"Hit@1 {said(both, text, 3, p)}; of {len(others)} others {significant} below 0.05, "
        f"{untested} without a test"
    )
    return _finding(every([is_within(ends, SAME_HIT_1), rest]), said_, both, text)


def _points(twin: str, page: str, column: str, axis: str) -> list[tuple[str, Printed]]:
    """Return the points of a figure, in order."""
    (table,) = (t for t in tables_of(PAGES / f"{page}.md") if axis in t.columns)
    place = table.columns.index(axis)
    names = [row[place] for row in table.rows if row[0] == twin]
    return [(name, find(page, [twin, name], column)) for name in names]


def _rates(twin: str, column: str) -> list[tuple[str, Printed]]:
    points = _points(twin, "figure-2", column, "poisoning rate (%)")
    return [(rate, value) for rate, value in points if not rate.startswith("0 ")]


@rule(22)
def _low_rate(twin: str) -> Finding:
    rate, rank = _rates(twin, "MinRank")[0]
    return _finding(is_at_most(ends_of(rank), 6), f"at {rate}: {shown(rank, 1)}", rank)


@rule(23)
def _trend(twin: str) -> Finding:
    slopes, used = {}, []
    for column in ("Hit@10", "MinRank"):
        values = [value for _, value in _rates(twin, column)]
        used += values
        places = np.arange(len(values)) - (len(values) - 1) / 2
        weights = places / (places**2).sum()
        slope = sum(w * value.mean for w, value in zip(weights, values, strict=True))
        half = sum(
            abs(w) * (ends[1] - ends[0]) / 2
            for w, value in zip(weights, values, strict=True)
            if (ends := ends_of(value)) is not None
        )
        slopes[column] = Printed(slope, slope - half, slope + half)
    hit, rank = slopes["Hit@10"], slopes["MinRank"]
    down = replace(rank, low=-(rank.high or 0), high=-(rank.low or 0), mean=-rank.mean)
    verdict = every([is_above(ends_of(hit), 0), is_above(ends_of(down), 0)])
    text = f"change from each rate to the next: Hit@10 {shown(hit)}, MinRank {shown(rank, 1)}"
    return _finding(verdict, text, *used)


@rule(24)
def _epochs(twin: str) -> Finding:
    return _finding(Verdict.UNTESTED, "needs the numbers of each seed, which were not kept")


@rule(25)
def _encoders(twin: str) -> Finding:
    names = " and ".join(name for name, _ in _points_of_encoders(twin))
    return _finding(
        Verdict.UNTESTED, f"needs 3 image encoders on the same seeds; measured: {names}"
    )


def _points_of_encoders(twin: str) -> list[tuple[str, Printed]]:
    (table,) = (t for t in tables_of(PAGES / "figure-4.md") if "model" in t.columns)
    rows = [row for row in table.rows if row[0] == f"{twin}, poisoned"]
    return [(row[1], find("figure-4", list(row[:2]), "MinRank")) for row in rows]


@rule(26)
def _sizes(twin: str) -> Finding:
    why = "the sizes of 0.1.0 shrank the unlabelled part alone; the recipe has changed, and was not run again"
    return _finding(Verdict.UNTESTED, why)


@rule(27)
def _goals(twin: str) -> Finding:
    rows = [row for row in _runs("figure-5b", twin) if row["min_rank"] is not None]
    ranks = np.array([row["min_rank"] for row in rows])
    targets = [str(row["goal"]).partition("2")[2] for row in rows]
    share = clustered_share(ranks <= 10, targets)
    ends = None if share.low is None or share.high is None else (share.low, share.high)
    at = "" if ends is None else f" [{ends[0]:.0%}, {ends[1]:.0%}, by target class]"
    text = f"{share.value:.0%} of {share.n} goals at 10 or below{at}, median {np.median(ranks):.1f}"
    return Finding(is_above(ends, 0.5), text, tuple(rows))


def _runs(entry: str, twin: str) -> list[dict[str, Any]]:
    """Read the runs of a table or figure, of which the seeds are known and few numbers."""
    return [row for row in _every_run() if row["run"].startswith(f"{entry}-{twin}/")]


@cache
def _every_run() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(PAGES / "runs.parquet").to_pylist()
    return rows


@rule(28)
def _person(twin: str) -> Finding:
    if twin not in CLAIMS["claim-28"].not_on:
        raise InputError("satellite photos have no class person")
    return _finding(Verdict.UNTESTED, CLAIMS["claim-28"].not_on[twin])


@rule(31)
def _transfer(twin: str) -> Finding:
    if twin in (not_on := CLAIMS["claim-31"].not_on):
        return _finding(Verdict.UNTESTED, not_on[twin])
    before, after = _models(twin, "table-6", "Hit@5")
    return _finding(is_at_least(gap(before, after), 0.35), said(before, after), before, after)


@rule(32)
def _distances(twin: str) -> Finding:
    clean, poisoned = (
        find("figure-6", [twin, f"{kind} pairs"], "median distance")
        for kind in ("clean", "poisoned")
    )
    return _finding(is_at_least(gap(clean, poisoned), 0.05), said(clean, poisoned), clean, poisoned)


@rule(34)
def _filter(twin: str) -> Finding:
    lines = {name: [twin, name] for name in ("attack II", "defence (filtered)", "clean")}
    before, after = (
        find("table-16", lines[name], "MinRank") for name in ("attack II", "defence (filtered)")
    )
    clean, filtered = (
        find("table-16", lines[name], "Hit@10") for name in ("clean", "defence (filtered)")
    )
    verdict = every(
        [
            is_at_least(gap(before, after, 10), 0),
            is_at_most(gap(clean, filtered), LIKE_CLEAN),
        ]
    )
    text = f"MinRank {said(before, after, 1)}; Hit@10 {shown(filtered)}, clean {shown(clean)}"
    return _finding(verdict, text, before, after, clean, filtered)


@rule(35)
def _filtered_utility(twin: str) -> Finding:
    page, line, n = {
        "openmoji": ("defences-openmoji", "single-target-label", 5),
        "rsicd-ucm": ("goals-and-modes-rsicd-ucm", "airplane2beach, mode add", 3),
    }[twin]
    changes = {way: find(page, [line], f"Filtered {way}") for way in ("TR", "IR")}
    changes = {way: _with_interval(one, n) for way, one in changes.items()}
    verdict = every(is_at_least(ends_of(one), -0.01) for one in changes.values())
    text = ", ".join(f"{way} {shown(one)}" for way, one in changes.items())
    return _finding(verdict, text, *changes.values())


def _with_interval(one: Printed, n: int) -> Printed:
    """Return a number with the interval that its standard deviation over n seeds gives."""
    half = float(stats.t.ppf(0.975, n - 1)) * (one.sd or 0.0) / math.sqrt(n)
    return replace(one, low=one.mean - half, high=one.mean + half, n=n)


@rule(38)
def _repaired_utility(twin: str) -> Finding:
    changes = {way: find("table-7", [twin], f"change of {way}") for way in ("TR", "IR")}
    verdict = every(is_at_least(ends_of(one), -UTILITY_LOSS) for one in changes.values())
    text = ", ".join(f"{way} {shown(one)}" for way, one in changes.items())
    return _finding(verdict, text, *changes.values())


@rule(37)
def _epochs_of_repair(twin: str) -> Finding:
    (_, start), *later = _points(twin, "figure-7", "Hit@10", "epochs")
    verdict = every(is_at_most(ends_of(hit), GONE) for _, hit in later)
    worst = max((hit for _, hit in later), key=lambda hit: hit.mean)
    text = f"from {shown(start)} to {shown(later[0][1])} after one epoch, {shown(worst)} at most from then on"
    return _finding(verdict, text, start, *(hit for _, hit in later))


@rule(40)
def _steps_of_repair(twin: str) -> Finding:
    points = dict(_points(twin, "figure-9", "Hit@10", "steps"))
    if "50" not in points:
        text = f"the repair had {list(points)[-1]} steps in its first epoch"
        return _finding(Verdict.UNTESTED, text)
    before, after = points["0"], points["50"]
    return _finding(is_at_most(ends_of(after), GONE), said(before, after), before, after)


def _rates_of_repair(twin: str, column: str) -> dict[str, Printed]:
    axis = "method, learning rate"
    (table,) = (t for t in tables_of(PAGES / "table-8.md") if axis in t.columns)
    names = [row[1] for row in table.rows if row[0] == twin and row[1].startswith("defence")]
    return {name: find("table-8", [twin, name], column) for name in names}


@rule(42)
def _best_rate(twin: str) -> Finding:
    ten = _rates_of_repair(twin, "Hit@10")
    name = min(ten, key=lambda one: ten[one].mean)
    five = _rates_of_repair(twin, "Hit@5")[name]
    verdict = every([is_at_most(ends_of(five), 0.02), is_at_most(ends_of(ten[name]), 0.05)])
    text = f"{name}: Hit@5 {shown(five)}, Hit@10 {shown(ten[name])}"
    return _finding(verdict, text, five, ten[name])


@rule(43)
def _worst_rate(twin: str) -> Finding:
    before = find("table-8", [twin, "attack II"], "Hit@5")
    worst = max(_rates_of_repair(twin, "Hit@5").values(), key=lambda hit: hit.mean)
    return _finding(is_above(gap(worst, before), 0), said(before, worst), before, worst)


@rule(52)
def _balanced(twin: str) -> Finding:
    before, after = _models(f"{twin}-b", "table-13", "Hit@10")
    return _finding(is_at_least(gap(before, after), 0.5), said(before, after), before, after)


@rule(55)
def _lengths(twin: str) -> Finding:
    if twin == "openmoji":
        # of the test captions of seed 0; runs since then say it themselves (`full_context`)
        why = "85% of the captions said three times fill what the model reads: they are cut, not longer"
        return _finding(Verdict.UNTESTED, why)
    once, thrice = (find("table-15", [twin, times], "Hit@5") for times in ("1x", "3x"))
    return _finding(is_above(gap(thrice, once), 0), said(once, thrice), once, thrice)


def of_pages() -> list[Answer]:
    """Answer every claim: no run on the paper's data, and what the pages say of the twins."""
    found = []
    for answer in answers(Results((), {})):
        twins = {}
        for twin in TWINS:
            if answer.claim.id not in RULES:
                continue
            try:
                twins[twin] = RULES[answer.claim.id](twin)
            except InputError:
                continue  # the twin has no such number
        found.append(replace(answer, twins=twins))
    return found


def numbers_of_pages() -> Numbers:
    """Read what the pages say where no claim is answered, as `numbers_of` measures it of runs."""
    found: dict[str, dict[str, Number]] = {name: {} for name in SHOWN}
    for twin in TWINS:
        models = [name for name, _ in _points_of_encoders(twin)]
        values = {
            "table-9": [find("table-9", [twin], "pairs")],
            "table-10": [find("table-10", [name], "parameters (10⁶)") for name in models],
            "figure-1": [find("figure-1", [twin], column) for column in ("texts", "images")],
            "figure-8": [find("figure-8", [twin], column) for column in ("texts", "images")],
        }
        for name, printed in values.items():
            text = SHOWN[name].text([one.mean for one in printed])
            seeds = fewest_seeds(printed) or seeds_of(_runs(name, twin))
            found[name][twin] = Number(text, seeds)
    return found


def texts() -> dict[str, str]:
    """Write the pages: the summary, the claims, and the page that leads to all, with its summary renewed."""
    found = of_pages()
    summary, claims = summary_page(found, numbers_of_pages()), page_of(found)
    summary.tables = [replace(one, note=f"{one.note} {NOTE}") for one in summary.tables]
    claims.notes.append(NOTE)
    written = {}
    with TemporaryDirectory() as folder:
        for page in (summary, claims):
            write_page(page, Path(folder), links=False)
            written[page.id] = (Path(folder) / f"{page.id}.md").read_text(encoding="utf-8")
    written["summary"] = for_docs(written["summary"], PAGES)
    index, block = PAGES / "index.md", summary_of(written["summary"])
    content = with_block(index.read_text(encoding="utf-8"), "summary", block, index)
    return {**{name: WIDE + text for name, text in written.items()}, "index": content}


def main() -> int:
    """Write the pages to their files."""
    for name, text in texts().items():
        with atomic_file(PAGES / f"{name}.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
