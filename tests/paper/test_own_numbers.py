"""The paper's own printed numbers, put to each rule."""

from __future__ import annotations

import pytest

from mmpoison.paper import CLAIMS
from mmpoison.paper.claim import FAILS, HOLDS
from mmpoison.paper.own_numbers import contradiction, own_finding, own_numbers, unprinted


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_the_papers_own_numbers_hold(name: str) -> None:
    """Printed numbers are exact (see `own_numbers`); where they fail, the paper contradicts itself in words given."""
    finding = own_finding(name)
    if finding is None:
        assert unprinted(name), f"{name}: say why the paper's numbers cannot be tested"
        assert not contradiction(name)
        return
    assert not unprinted(name)
    wanted = FAILS if contradiction(name) else HOLDS
    assert finding.verdict == wanted, finding.number


def test_the_contradictions_are_named() -> None:
    assert {name for name in CLAIMS if contradiction(name)} == {"claim-15", "claim-51"}
    assert {name for name in CLAIMS if unprinted(name)} == {
        f"claim-{number}" for number in range(23, 29)
    }


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    (flickr,) = own_numbers("claim-17").values()
    ranks = {
        row["training.trainable"]: row["min_rank"]
        for row in flickr.rows
        if row["model"] == "poisoned"
    }
    assert ranks == {"both": 2.192, "image": 3.016, "text": 3.472}
    (coco,) = own_numbers("claim-12").values()
    assert {row["model"]: row["min_rank"] for row in coco.rows} == {
        "clean_model": 153.852,
        "poisoned": 12.688,
    }
