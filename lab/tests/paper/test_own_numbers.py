"""The paper's own printed numbers, put to each rule."""

from __future__ import annotations

import pytest

from mmpoison_lab.paper import CLAIMS
from mmpoison_lab.paper.claim import FAILS, HOLDS
from mmpoison_lab.paper.claims import ALL_CLAIMS
from mmpoison_lab.paper.paper_values import paper
from mmpoison_lab.paper.verdicts import own_finding, own_numbers


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_the_papers_own_numbers_hold(name: str) -> None:
    """Printed numbers are exact (see `own_numbers`); where they fail, the paper contradicts itself in words given."""
    claim = CLAIMS[name]
    finding = own_finding(claim)
    if finding is None:
        assert claim.unprinted, f"{name}: say why the paper's numbers cannot be tested"
        assert not claim.contradicted
        return
    assert not claim.unprinted
    wanted = FAILS if claim.contradicted else HOLDS
    assert finding.verdict == wanted, finding.number


def test_the_contradictions_are_named() -> None:
    assert {name for name in CLAIMS if CLAIMS[name].contradicted} == {"claim-15", "claim-51"}
    assert {name for name in CLAIMS if CLAIMS[name].unprinted} == {
        f"claim-{number}" for number in range(23, 29)
    }


def numbers(value: object) -> set[float]:
    """Every number within a value of JSON."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return set().union(*map(numbers, inside))
    return {float(value)} if isinstance(value, int | float) else set()


def test_rows_of_a_claim_have_numbers_of_the_paper() -> None:
    """What is listed under `printed` stands in the values of the claim, or in a table, or is their difference."""
    tables = numbers([paper()[name]["rows"] for name in paper() if name.startswith("table")])
    values = {claim.id: numbers(claim.values) for claim in ALL_CLAIMS}
    of_others = values["claim-05"] | values["claim-40"]
    for claim in CLAIMS.values():
        rows = [] if isinstance(claim.printed, str) else claim.printed
        for row in rows:
            cells = {k: v for k, v in row.items() if k not in ("x", "epoch")}
            known = tables | values[claim.id] | of_others
            known |= {value / 100 for value in known}
            assert numbers(cells) <= {round(value, 6) for value in known}, claim.id


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    table_5 = own_numbers(CLAIMS["claim-17"]).where(model="poisoned")
    ranks = {
        row["training.trainable"]: row["min_rank"]
        for row in table_5.rows
        if row["data.name"] == "flickr-pascal"
    }
    assert ranks == {"both": 2.192, "image": 3.016, "text": 3.472}
    coco = [r for r in own_numbers(CLAIMS["claim-12"]).rows if r["data.name"] == "coco-paper"]
    assert {row["model"]: row["min_rank"] for row in coco} == {
        "clean_model": 153.852,
        "poisoned": 12.688,
    }
