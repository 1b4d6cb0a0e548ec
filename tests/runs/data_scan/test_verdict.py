"""Verdicts in words."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mmpoison.defenses.filter_result import SuspectedGoal
from mmpoison.defenses.filters.suspicious_groups import PlantedSize
from mmpoison.runs.data_scan.goal_words import ScanFinding, next_steps, verdict_of


def goal(rows: list[int], false_alarms: float = 0.002) -> SuspectedGoal:
    return SuspectedGoal(
        ("sheep",), ("planes",), np.array(rows), len(rows), 9, 1, false_alarms, 30, ("a sheep",), ()
    )


SEES, BLIND = PlantedSize(50, 5, 4), PlantedSize(50, 5, 0)


@pytest.mark.parametrize(
    ("finding", "verdict", "says"),
    [
        (
            ScanFinding(1000, [goal([1, 2]), goal([2, 3])]),
            "possible poisoning",
            "2 suspected goals: 3 pairs, 0.30%",
        ),
        (ScanFinding(1000, [goal([1], 0.002)]), "possible poisoning", "0.20% of clean data sets"),
        (
            ScanFinding(1000, [], planted=[SEES], sample=500),
            "no sign of poisoning",
            "4 of 5 with 50 pairs",
        ),
        (ScanFinding(1000, []), "cannot be decided", "was not measured"),
        (ScanFinding(1000, [], planted=[BLIND], sample=500), "cannot be decided", "blind"),
        # a group that was found counts, whatever was planted
        (ScanFinding(1000, [goal([1])], planted=[BLIND]), "possible poisoning", "1 suspected goal"),
        (ScanFinding(199, [goal([1])]), "cannot be decided", "199 pairs are too few"),
        (
            ScanFinding(1000, [goal([1])], out_of_order=True),
            "cannot be decided",
            "not in the same order",
        ),
    ],
)
def test_the_verdict_says_what_was_found_and_how_sure(
    finding: ScanFinding, verdict: str, says: str
) -> None:
    got, lines = verdict_of(finding)
    assert got == verdict
    assert says in " ".join(lines)


@pytest.mark.parametrize(
    ("verdict", "distance", "singles", "embedded", "says", "not_said"),
    [
        (
            "possible poisoning",
            True,
            False,
            True,
            ["Look at", "--lose 0.02", "not on it"],
            ["no p"],
        ),
        # what was given is not advised
        ("possible poisoning", True, True, True, ["Look at", "not on it"], ["--lose", "not seen"]),
        (
            "no sign of poisoning",
            False,
            False,
            True,
            ["no proof", "these embeddings do not tell"],
            ["Look at"],
        ),
        ("no sign of poisoning", False, True, False, ["--encoder and a CLIP"], ["--lose"]),
        ("cannot be decided", True, False, True, [], ["Train"]),
    ],
)
def test_what_to_do_next(
    verdict: str,
    distance: bool,
    singles: bool,
    embedded: bool,
    says: list[str],
    not_said: list[str],
) -> None:
    steps = next_steps(
        verdict,  # type: ignore[arg-type]
        keep_file="keep.npy",
        dropped=3 if verdict == "possible poisoning" else 0,
        distance=distance,
        singles=singles,
        embedded=embedded,
    )
    text = " ".join(steps)
    assert all(part in text for part in says)
    assert not re.search("|".join(not_said), text)
