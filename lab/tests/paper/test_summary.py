"""The paper on one screen: a line for each table and figure, from answers that are made up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.reporting.results import Row
from mmpoison_lab.paper import CLAIMS, PAPER, ClaimResult, Results
from mmpoison_lab.paper.claim import FAILS, HOLDS, UNDECIDED, UNTESTED, Verdict
from mmpoison_lab.paper.page import Page
from mmpoison_lab.paper.paper_values import paper
from mmpoison_lab.paper.verdicts import (
    LINES,
    SHOWN,
    Numbers,
    answer,
    answers,
    numbers_of,
    page_of,
    summary_page,
)

from .claim_cases import CASES, on, results, rows

Line = dict[str, Any]

NOTHING = answers(Results((), {}))
"""Every claim, without an answer."""


def said(verdict: Verdict, seeds: int = 0) -> ClaimResult:
    return ClaimResult(verdict, "", seeds_from(seeds))


def seeds_from(seeds: int) -> tuple[Row, ...]:
    return tuple({"seed": seed} for seed in range(seeds))


def page_with(
    twins: Mapping[str, Mapping[str, ClaimResult]], numbers: Numbers | None = None
) -> Page:
    """The page where these claims have these answers by data set, and all others none."""
    assert set(twins) <= {one.claim.id for one in NOTHING}
    given = [replace(one, twins=twins.get(one.claim.id, {})) for one in NOTHING]
    return summary_page(given, numbers or {})


def lines(
    twins: Mapping[str, Mapping[str, ClaimResult]], numbers: Numbers | None = None
) -> dict[str, Line]:
    """The lines of that page by name."""
    return by_name(page_with(twins, numbers))


def by_name(page: Page) -> dict[str, Line]:
    (table,) = page.tables
    return {row["table or figure"]: row for row in table.to_json()["rows"]}


# -- what is in the data -----------------------------------------------------------------------------------


def test_every_claim_with_a_rule_has_short_words_and_an_entry() -> None:
    for one in paper()["claims"]:
        assert ("rule" in one) == ("short" in one) == ("entry" in one) == (one["id"] in CLAIMS), one
    for claim in CLAIMS.values():
        assert claim.entry in LINES, claim.id
        assert 10 < len(claim.short) <= 80, claim.id
        assert not claim.short.endswith("."), claim.id
    shorts = [claim.short for claim in CLAIMS.values()]
    # claims 15 and 50 exclude each other, and 53 is of balanced data
    assert len(set(shorts)) == len(shorts)


def test_the_entry_is_the_table_or_figure_that_the_paper_names() -> None:
    named = 0
    for claim in CLAIMS.values():
        (where,) = (one["where"] for one in paper()["claims"] if one["id"] == claim.id)
        found = re.search(r"(Table|Figure) (\d+)(?: \((.)\))?", where)
        if found is not None:
            assert claim.entry == f"{found[1].lower()}-{found[2]}{found[3] or ''}", claim.id
            named += 1
    assert len(CLAIMS) - named == 4  # 01, 09, 35 and 44 name a section alone


def test_every_table_and_figure_has_a_line_in_the_order_of_the_paper() -> None:
    assert len(LINES) == 27
    assert list(LINES) == [name for name in PAPER if name != "rank-lists"]
    assert all(0 < len(entry.short) <= 30 for entry in LINES.values())
    names = list(lines({}))
    assert names[:2] == ["Table 1", "Table 2"]
    assert names[15:17] == ["Table 16", "Figure 1"]
    assert names[19:22] == ["Figure 4", "Figure 5a", "Figure 5b"]
    assert len(names) == 27


# -- the answers ---------------------------------------------------------------------------------------------


def test_claims_are_counted_for_each_data_set() -> None:
    line = lines(
        {
            "claim-17": {"scenes": said(FAILS, 5), "photos": said(UNDECIDED, 3)},
            "claim-18": {"scenes": said(HOLDS, 5), "photos": said(UNDECIDED, 5)},
            "claim-19": {"scenes": said(UNDECIDED, 5), "photos": said(UNTESTED)},
        }
    )["Table 5"]
    assert line["scenes"] == "holds 1, does not hold 1, undecided 1"
    assert line["photos"] == "undecided 2, cannot be tested here 1"
    assert line["seeds"] == "3 to 5"
    first, second, third = (CLAIMS[f"claim-{number}"].short for number in (17, 18, 19))
    assert line["what came out"] == (
        f"{first[0].upper()}{first[1:]}: does not hold on scenes; {second}: holds on scenes; {third}: undecided."
    )


def test_the_sentence_names_the_data_where_answers_differ() -> None:
    def of(**found: Verdict) -> str:
        twins = {"claim-34": {name: said(verdict, 5) for name, verdict in found.items()}}
        # another data set, on which this claim has no answer
        twins["claim-14"] = {name: said(HOLDS, 5) for name in ("a", "b", "c")}
        return str(lines(twins)["Table 16"]["what came out"]).partition(": ")[2]

    assert of(a=HOLDS, b=HOLDS, c=HOLDS) == "holds."
    assert of(a=HOLDS, b=FAILS, c=HOLDS) == "holds on a and c, does not hold on b."
    assert of(a=HOLDS, b=HOLDS) == "holds on a and b."
    assert of(a=UNTESTED, b=FAILS, c=UNDECIDED) == "does not hold on b."
    assert of(a=UNTESTED, b=UNDECIDED) == "undecided."
    assert of(a=UNTESTED) == "cannot be tested here."


def test_what_is_not_counted_is_not_counted_here() -> None:
    twins = {f"claim-{number}": {"scenes": said(HOLDS, 5)} for number in ("09", "15", "44")}
    found = lines(twins)
    for line in found.values():
        assert line["scenes"] is None
    assert found["Figure 1"]["what came out"].startswith("Its claims are not counted")
    assert not found["Table 5"]["what came out"].startswith("Its claims")
    assert "In all, scenes: no answer." in page_with(twins).tables[0].note
    one = {"claim-14": {"photos": said(HOLDS, 5)}}
    assert page_with(one).tables[0].note.startswith("In all, photos: holds 1. ")


def test_the_counts_are_those_of_the_page_of_claims() -> None:
    found = [
        answer(CLAIMS[name], on(cases[HOLDS], "openmoji"))
        for name, cases in CASES.items()
        if HOLDS in cases
    ]
    (table,) = summary_page(found, {}).tables
    said_there = next(note for note in page_of(found).notes if "On other data" in note)
    (number,) = re.findall(r"holds: (\d+); does", said_there)
    assert f"In all, openmoji: holds {number}" in table.note
    assert int(number) > 20


def test_seeds_are_those_of_the_answers() -> None:
    found = lines(
        {
            "claim-34": {"photos": said(UNTESTED), "scenes": said(FAILS, 3)},
            "claim-24": {"photos": said(UNTESTED)},
        }
    )
    assert found["Table 16"]["seeds"] == "3"
    assert found["Figure 3"]["seeds"] is None
    assert found["Table 3"]["seeds"] is None


# -- rows of runs ----------------------------------------------------------------------------------------------


def test_the_papers_own_data_come_first_each_with_its_own_answer() -> None:
    cases = CASES["claim-19"]
    parts = [
        on(cases[UNDECIDED], "openmoji"),
        on(cases[FAILS], "coco-paper", "clip-vit-b32"),
        on(cases[HOLDS], "flickr-pascal", "clip-vit-b32"),
    ]
    merged = results(*(part.rows for part in parts))
    line = by_name(summary_page([answer(CLAIMS["claim-19"], merged)], {}))["Table 5"]
    assert list(line)[2:5] == ["Flickr-PASCAL", "COCO", "openmoji"]
    assert list(line.values())[2:5] == [HOLDS, FAILS, UNDECIDED]
    assert line["what came out"].endswith("holds on Flickr-PASCAL, does not hold on COCO.")


# -- tables and figures on which no claim is answered ----------------------------------------------------------


def facts(pairs: float, parameters: float, drift: float) -> Results:
    made = results(
        rows(
            {
                "run.data.pairs": [pairs] * 3,
                "run.model.parameters_m": [parameters] * 3,
                "drift.text": [drift] * 3,
                "drift.image": [2 * drift] * 3,
            }
        )
    )
    return on(made, "openmoji")


def test_numbers_are_read_from_the_results() -> None:
    found = lines({}, numbers_of(facts(32500, 6.96, 0.1)))
    assert found["Table 9"]["what came out"] == (
        "No claim rests on it; pairs: openmoji 32,500; the paper: 4,998 to 616,767."
    )
    assert (
        "parameters in millions: openmoji 7.0; the paper: 82.5 to 258.7."
        in found["Table 10"]["what came out"]
    )
    assert found["Figure 1"]["what came out"] == (
        "Its claims are not counted; drift of texts, images: openmoji 0.100, 0.200; the paper: no number."
    )
    assert found["Figure 1"]["seeds"] == "3"
    assert found["Table 9"]["openmoji"] is None


def test_the_size_is_that_of_the_whole_data_set() -> None:
    whole = facts(32500, 6.96, 0.1)
    balanced = on(facts(6500, 6.96, 0.1), "openmoji-b")
    part = facts(8125, 6.96, 0.1)
    every = replace(whole, rows=(*balanced.rows, *part.rows, *whole.rows))
    assert numbers_of(every)["table-9"]["openmoji"].number == "32,500"


def test_several_models_of_a_data_set_are_a_range() -> None:
    assert SHOWN["table-10"].text([26.9]) == "26.9"
    assert SHOWN["table-10"].text([6.96, 4.67, 5.0]) == "4.7 to 7.0"
    assert SHOWN["figure-8"].text([0.5, -0.25]) == "0.500, -0.250"


def test_without_runs_no_sentence_has_a_result() -> None:
    """Every digit of a sentence is in the words of the data: nothing is said that was not measured."""
    for name, line in lines({}).items():
        sentence = str(line["what came out"])
        entry = next(one for one in LINES.values() if one.name == name.lower().replace(" ", "-"))
        needs = [claim.needs for claim in CLAIMS.values() if claim.entry == entry.name]
        for words in (*needs, entry.needs):
            sentence = sentence.replace(words, "")
        assert not re.search(r"\d", sentence), line
        assert not any(str(verdict) in sentence for verdict in (HOLDS, FAILS, UNDECIDED)), line
        assert line["seeds"] is None
    assert (
        lines({})["Figure 10"]["what came out"]
        == "No claim rests on it, and no number is compared."
    )
    assert lines({})["Figure 8"]["what came out"].endswith(
        "needs runs with the study distribution."
    )
    assert "needs attack II on several" not in lines({})["Figure 4"]["what came out"]


def test_an_answer_is_shown_in_place_of_numbers() -> None:
    numbers = {
        "figure-1": {"photos": ClaimResult(UNTESTED, "0.3", seeds_from(2))},
        "table-10": {"photos": ClaimResult(UNTESTED, "5.0", seeds_from(1))},
    }
    assert lines({}, numbers)["Figure 1"]["seeds"] == "2"
    found = lines({"claim-49": {"photos": said(HOLDS, 1)}}, numbers)
    assert "5.0" not in found["Table 10"]["what came out"]


# -- the command -----------------------------------------------------------------------------------------------


def test_the_summary_is_printed_first_and_written(scenes: list[Path], tmp_path: Path) -> None:
    call = ["report", *map(str, scenes), "--claims", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, call, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"{name}.{ending}" for name in ("summary", "claims") for ending in ("md", "html", "json")
    }
    assert done.output.index("Each table and figure") < done.output.index("summary.md")
    assert "3 more tables" in done.output
    assert "Settings and facts" not in done.output
    assert "…" not in done.output
    # a path is not broken
    assert max(len(line) for line in done.output.splitlines() if "/" not in line) <= 80
    for number in ("30,000;", "4,998 to 616,767", "82.5 to", "258.7."):
        assert number in done.output
    whole = CliRunner().invoke(app, [*call, "--all"], env={"COLUMNS": "80"})
    assert "Settings and facts" in whole.output
    content = json.loads((tmp_path / "out/summary.json").read_text())
    assert len(content["tables"][0]["rows"]) == 27
    said_first = json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout)
    tables = said_first if isinstance(said_first, list) else said_first["tables"]
    assert tables[0]["title"] == "Each table and figure"
    assert "openmoji" in tables[0]["rows"][0]
