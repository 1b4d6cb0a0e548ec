"""Claims on the data that they name, on others, and the page of both."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.reporting.table import Link
from mmpoison_lab.paper import CLAIMS, Results, claims_page
from mmpoison_lab.paper.claim import FAILS, HOLDS, UNDECIDED, UNTESTED, Verdict
from mmpoison_lab.paper.paper_values import paper
from mmpoison_lab.paper.verdicts import answer, answers, counted

from .claim_cases import CASES, on, results

IDS = [one["id"] for one in paper()["claims"]]


CLIP = "clip-vit-b32"


def test_a_claim_is_bound_to_its_data() -> None:
    claim, holds = CLAIMS["claim-11"], CASES["claim-11"][HOLDS]
    named = answer(claim, on(holds, "coco-paper", CLIP))
    assert (named.finding.verdict, named.twins) == (HOLDS, {})
    twin = answer(claim, on(holds, "openmoji"))
    assert twin.finding.verdict == UNTESTED
    assert "on COCO, with CLIP" in twin.finding.number
    assert {data: one.verdict for data, one in twin.twins.items()} == {"openmoji": HOLDS}
    # another data set of the paper is not the one that is named, nor another model on the one that is
    assert answer(claim, on(holds, "flickr-pascal", CLIP)).finding.verdict == UNTESTED
    other = answer(claim, on(holds, "coco-paper"))
    assert other.finding.verdict == UNTESTED
    assert list(other.twins) == ["COCO, openmoji-small"]


def test_a_claim_on_two_data_sets_needs_both() -> None:
    claim, cases = CLAIMS["claim-19"], CASES["claim-19"]

    def of_both(first: Verdict, second: Verdict) -> Verdict:
        parts = on(cases[first], "flickr-pascal", CLIP), on(cases[second], "coco-paper", CLIP)
        return answer(claim, results(*(part.rows for part in parts))).finding.verdict

    assert of_both(HOLDS, HOLDS) == HOLDS
    assert of_both(HOLDS, FAILS) == FAILS
    assert answer(claim, on(cases[HOLDS], "flickr-pascal", CLIP)).finding.verdict == UNTESTED
    assert answer(claim, on(cases[FAILS], "flickr-pascal", CLIP)).finding.verdict == FAILS


def test_parts_of_coco_are_compared_and_are_nothing_else() -> None:
    assert answer(CLAIMS["claim-26"], CASES["claim-26"][HOLDS]).finding.verdict == HOLDS
    only_parts = on(CASES["claim-11"][HOLDS], "coco-m", CLIP)
    assert answer(CLAIMS["claim-11"], only_parts).finding.verdict == UNTESTED


def test_invalid_tests_are_marked() -> None:
    person = answer(CLAIMS["claim-28"], on(CASES["claim-28"][HOLDS], "openmoji"))
    assert person.twins["openmoji"].verdict == UNTESTED
    own = answer(CLAIMS["claim-28"], CASES["claim-28"][HOLDS])
    assert own.finding.verdict == HOLDS


def test_what_excludes_or_contains_another_is_counted_once() -> None:
    found = answers(Results((), {}))
    not_counted = {one.claim.id for one in found if not one.counted}
    assert not_counted == {"claim-09", "claim-15", "claim-44"}
    assert counted(found) == {HOLDS: 0, FAILS: 0, UNDECIDED: 0, UNTESTED: 30}


def test_every_claim_has_a_verdict(scenes: list[Path], tmp_path: Path) -> None:
    page = claims_page(Results.read(scenes))
    verdicts, compared, settings = page.tables
    claims = [row[2] for row in (*verdicts.rows, *settings.rows)]
    assert all(any(str(one["claim"]) in str(c) for c in claims) for one in paper()["claims"])
    assert len(claims) == len(IDS)
    for row in verdicts.rows:
        assert str(row[3]).startswith("not counted") or row[3] in set(Verdict)
    assert {row[2] for row in compared.rows} == {"openmoji"}
    linked = [row[4] for row in compared.rows if row[3] != UNTESTED]
    assert linked
    for cell in linked:
        assert isinstance(cell, Link)
        assert cell.address.startswith("#claims-source-")
    done = CliRunner().invoke(
        app, ["report", *map(str, scenes), "--claims", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "out/claims.json").read_text())
    assert content["tables"][0]["rows"]
    assert "Of 30 claims that count" in (tmp_path / "out/claims.md").read_text()
