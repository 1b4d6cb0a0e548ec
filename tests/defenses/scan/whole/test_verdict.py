"""Verdicts in words, and the next step that each ends in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mmpoison.defenses.scan.groups.describe import DescribedGroup
from mmpoison.defenses.scan.groups.passes import Group
from mmpoison.defenses.scan.groups.planted import PlantedSize
from mmpoison.defenses.scan.write.verdict import (
    ScanFinding,
    ScanOutput,
    grade_of,
    next_steps,
    verdict_of,
)


def goal(rows: int, false_alarms: float = 0.002, hardest: float = 0.04) -> DescribedGroup:
    of = {0: np.arange(rows)}
    group = Group(of, 30.0, 9, 9, 2.0, false_alarms, hardest, rows, np.zeros(1, np.float32))
    return DescribedGroup(group, ("sheep",), ("planes",), np.arange(rows), (), ())


SEES, BLIND = PlantedSize(25, 5, 4), PlantedSize(25, 5, 0)
LIKELY, LOOK, CHANCE = goal(9), goal(7, 0.06), goal(6, 0.5)


@pytest.mark.parametrize(
    ("finding", "verdict", "says"),
    [
        (
            ScanFinding(1000, [LIKELY, LOOK]),
            "poisoning likely",
            "1 group is stronger than in clean data: 9 pairs, 0.90% of all.",
        ),
        (ScanFinding(1000, [LOOK, CHANCE]), "look at these groups", "1 group deserves a look"),
        (ScanFinding(1000, [LOOK], level=0.07), "poisoning likely", "1 group is stronger"),
        (
            ScanFinding(1000, [CHANCE], planted=[SEES], sample=500),
            "nothing stands out",
            "4 of 5 on 25 images",
        ),
        (ScanFinding(1000, []), "cannot be decided", "no test goals were planted"),
        (
            ScanFinding(1000, [CHANCE], traced=True),
            "cannot be decided",
            "which may carry the same poison",
        ),
        (ScanFinding(1000, [], planted=[BLIND], sample=500), "cannot be decided", "0 of 5"),
        # a group that was found counts, whatever was planted
        (ScanFinding(1000, [LIKELY], planted=[BLIND]), "poisoning likely", "1 group is"),
        (ScanFinding(199, [LIKELY]), "cannot be decided", "199 pairs are too few"),
        (ScanFinding(1000, None), "cannot be decided", "scores single pairs"),
        (
            ScanFinding(1000, [LIKELY], out_of_order=True),
            "cannot be decided",
            "in different orders",
        ),
    ],
)
def test_the_verdict_says_what_was_found_and_how_sure(
    finding: ScanFinding, verdict: str, says: str
) -> None:
    got, lines = verdict_of(finding)
    assert got == verdict
    assert says in " ".join(lines)


def test_a_group_has_the_grade_of_the_verdict_that_it_alone_would_give() -> None:
    assert "0.20% of ordinary clean sets have a group this strong, and 4.00% of" in str(LIKELY)
    for one in (LIKELY, LOOK, CHANCE):
        verdict, _ = verdict_of(ScanFinding(1000, [one], planted=[SEES]))
        grade = grade_of(one.group.false_alarms, 0.01)
        assert (grade == "poisoning likely") == (verdict == "poisoning likely")
        assert (grade == "as in clean data") == (verdict == "nothing stands out")


@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("singles", [True, False])
@pytest.mark.parametrize(
    ("finding", "first", "not_said"),
    [
        (ScanFinding(1000, [LIKELY]), "Review the pairs of each group: LOOK", "no proof"),
        (ScanFinding(1000, [LOOK]), "Review the pairs of each group: LOOK", "no proof"),
        (
            ScanFinding(1000, [], planted=[SEES]),
            "Train on the pairs listed in 'my scan'/keep.npy",
            "Look",
        ),
        (ScanFinding(1000, []), "Scan again without --no-planted.", "Train"),
        (ScanFinding(1000, [], planted=[BLIND]), "Scan again with another --encoder", "Train"),
        (ScanFinding(100, []), "Review all pairs yourself: LOOK", "Train"),
        (ScanFinding(1000, [], out_of_order=True), "Match captions and images by", "Train"),
        (ScanFinding(1000, None), "Review the most suspicious pairs: LOOK", "no proof"),
        (
            ScanFinding(1000, [LIKELY], traced=True),
            "Review the pairs of each group: LOOK",
            "encoder",
        ),
        (
            ScanFinding(1000, [], traced=True),
            "If the reference was trained on all pairs",
            "Scan again",
        ),
    ],
)
def test_every_verdict_ends_in_a_next_step(
    finding: ScanFinding, first: str, not_said: str, pictures: bool, aligned: bool, singles: bool
) -> None:
    out = Path("my scan")
    steps = next_steps(
        finding,
        verdict_of(finding)[0],
        ScanOutput(out, "keep.npy", 3, pictures, aligned, singles),
    )
    look = (
        "mmpoison review 'my scan' --labels 'my scan-labels.csv'"
        if pictures
        else "open 'my scan'/scan.html"
    )
    assert steps[0].startswith(first.replace("LOOK", look))
    text = " ".join(steps)
    assert not re.search(not_said, text)
    assert "{" not in text
    # what was given is not advised
    assert ("--lose 0.02" in text) <= (pictures or not singles)
    assert ("below" in text) is False
    if first.startswith("Train"):
        assert "(3 pairs left out)" in text
