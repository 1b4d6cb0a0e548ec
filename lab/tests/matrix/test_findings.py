"""What a matrix is said to show, and what it says of the papers' claims: each answer in each direction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mmpoison_lab.matrix.page import findings
from mmpoison_lab.matrix.published import compare_claims
from mmpoison_lab.matrix.summary import MatrixSummary
from mmpoison_lab.matrix.tables import utility_table

from .test_pages import Row, cell, cells_of, facts, summary_of

HIGH = (0.90, 0.88, 0.92, 0.90, 0.91, 0.89)
NONE = (0.02, 0.00, 0.01, 0.02, 0.00, 0.01)
WIDE = (0.00, 0.00, 0.00, 0.00, 0.60, 0.60)
FILTER: dict[str, Any] = {"kind": "pre-training", "method": "relevance-filter", "clean_lost": 0.02}
OURS: dict[str, Any] = {"kind": "pre-training", "method": "suspicious-groups", "clean_lost": 0.02}
IMAGE: dict[str, Any] = {"attack": "single-target-image"}
PATCH: dict[str, Any] = {"attack": "patch-backdoor"}


def shown(cells: Sequence[Row], *columns: str) -> MatrixSummary:
    rows = list(dict.fromkeys(cell["row"] for cell in cells))
    return summary_of(facts(*columns, rows=rows), cells)


def with_trigger(row: str, column: str, successes: Sequence[float], **more: Any) -> list[Row]:
    return [
        cell
        for place, success in enumerate(successes)
        for cell in cells_of(row, column, [0.0] * 6, with_trigger=success, **PATCH, **more)[
            place : place + 1
        ]
    ]


def plain(**columns: Sequence[float]) -> list[Row]:
    about = {"ours": OURS, "other": FILTER}
    return [
        *cells_of("II", "none", HIGH),
        *cells_of("II", "clean model", NONE),
        *(
            cell
            for name, values in columns.items()
            for cell in cells_of("II", name, values, **about.get(name, {}))
        ),
    ]


def test_what_stops_what_and_what_does_not() -> None:
    said = findings(shown(plain(ours=NONE, other=HIGH), "ours", "other"))
    assert said[0].startswith("1 attack without a trigger succeeds: undefended, 0.90 [0.8")
    assert said[0].endswith("under the clean model, 0.01 [0.00, 0.02].")
    assert not any("trigger succeeds" in one for one in said[1:])
    assert said[1].endswith(": ours (0.01 [0.00, 0.02]).")
    assert said[2] == (
        "Without a trigger, it is uncertain that these beat `none` (change of success, probability that it is < 0): "
        "other 0.00 [0.00, 0.00] (0.50)."
    )
    assert "For every attack some defence comes within 0.05 of the clean model on average." in said
    assert said[4] == "ours leaves 0.01 [0.00, 0.02]; no other defence leaves less."


def test_a_wide_interval_stops_nothing() -> None:
    said = findings(shown(plain(other=WIDE), "other"))
    assert said[1].startswith("Without a trigger, no defence comes within 0.05")


def test_the_own_filter_may_be_beaten() -> None:
    half = tuple(value - 0.4 for value in HIGH)
    said = " ".join(findings(shown(plain(ours=half, other=NONE), "ours", "other")))
    assert "; these leave less, with this probability: other (> 0.99)." in said
    # not significant is not equal: a wide interval is a probability
    said = " ".join(findings(shown(plain(ours=half, other=WIDE), "ours", "other")))
    assert "; these leave less, with this probability: other (0.86)." in said


def test_what_is_lost_and_for_nothing() -> None:
    cells = plain(other=HIGH)
    cells += cells_of("II", "dear", NONE, 0.8)
    cells += cells_of("II", "vain", HIGH, 0.7)
    said = " ".join(findings(shown(cells, "other", "dear", "vain")))
    assert "Utility is lost by dear 0.100 [0.100, 0.100] and vain 0.200" in said
    assert "this exceeds the drop in attack success for vain." in said
    assert "dear and vain." not in said


def test_a_loss_that_cannot_show_is_not_named() -> None:
    cells = [
        one
        for column, found in (("none", HIGH), ("other", NONE))
        for one in cells_of("II", column, found, 1.0)
    ]
    summary = shown(cells, "other")
    assert "utility" not in " ".join(findings(summary))
    assert utility_table(summary).to_json()["rows"] == [{"Attack": "II", "n": 6, "other": "–"}]


def test_triggers_are_told_apart() -> None:
    cells = plain(other=HIGH)
    cells += with_trigger("patch", "none", HIGH) + with_trigger("patch", "clean model", NONE)
    cells += with_trigger("patch", "other", NONE, kind="pre-training")
    said = " ".join(findings(shown(cells, "other")))
    assert "With a trigger, these come within 0.05 of the clean model" in said
    assert "With a trigger, it is open" not in said
    assert "Without a trigger, it is uncertain that these beat `none`" in said


def test_what_gets_through_and_false_alarms() -> None:
    cells = plain(other=NONE)
    cells += cells_of("hard", "none", HIGH) + cells_of("hard", "clean model", NONE)
    cells += cells_of("hard", "other", HIGH, **FILTER)
    clean: dict[str, Any] = {**FILTER, "clean_lost": 0.3}
    cells += [
        cell("clean", "other", "", 5, attack="no-poison", utility=0.9, **clean),
        cell("clean", "none", "", 5, attack="no-poison", utility=0.9),
    ]
    said = " ".join(findings(shown(cells, "other")))
    assert "hard, which keeps 0.90 after other (clean model: 0.01)." in said
    assert "Without any poison, the filters drop at their own cut: other 30.0%." in said


def test_nothing_is_said_where_nothing_succeeds() -> None:
    assert findings(shown([*cells_of("II", "none", NONE), *cells_of("II", "x", NONE)], "x")) == []


def targeted(after: Sequence[float], column: str) -> MatrixSummary:
    cells = cells_of("I", "none", HIGH, **IMAGE) + cells_of("I", "clean model", NONE, **IMAGE)
    return shown([*cells, *cells_of("I", column, after, kind="in-training", **IMAGE)], column)


@pytest.mark.parametrize("column", ["safeclip", "roclip"])
@pytest.mark.parametrize(
    ("after", "verdict"), [(NONE, "agrees"), (HIGH, "does not agree"), (WIDE, "undecided")]
)
def test_training_that_is_said_to_stop_an_attack(
    column: str, after: Sequence[float], verdict: str
) -> None:
    (found,) = compare_claims(targeted(after, column))
    assert found.verdict == verdict
    assert found.measured.startswith("0.90 [0.8")


def test_a_claim_needs_an_attack_that_succeeds() -> None:
    weak = cells_of("I", "none", NONE, **IMAGE) + cells_of("I", "safeclip", NONE, **IMAGE)
    (found,) = compare_claims(shown(weak, "safeclip"))
    assert (found.verdict, found.measured) == ("cannot be tested", "–")
    assert found.reason == "no row of `single-target-image` succeeds"
    assert compare_claims(shown(plain(other=NONE), "other")) == []


@pytest.mark.parametrize(
    ("par", "cleanclip", "verdict"),
    [
        (NONE, HIGH, "agrees"),
        (HIGH, NONE, "does not agree"),
        (HIGH, HIGH, "undecided"),
    ],
)
def test_repairs_of_triggers(
    par: Sequence[float], cleanclip: Sequence[float], verdict: str
) -> None:
    cells = with_trigger("patch", "none", HIGH)
    cells += with_trigger("patch", "par", par, kind="post-training")
    cells += with_trigger("patch", "cleanclip", cleanclip, kind="post-training")
    (found,) = compare_claims(shown(cells, "par", "cleanclip"))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("distance", "slof", "dao", "verdict"),
    [
        (0.5, 0.6, 0.9, "agrees"),
        (0.95, 0.6, 0.9, "does not agree"),
        (0.5, 0.9, 0.9, "undecided"),
    ],
)
def test_densities(distance: float, slof: float, dao: float, verdict: str) -> None:
    rng = np.random.default_rng(0)
    cells = with_trigger("patch", "none", HIGH)
    for name, value in (("", distance), ("-slof", slof), ("-dao", dao)):
        for place in range(6):
            noise = float(rng.uniform(-0.02, 0.02))
            (cell,) = with_trigger(
                "patch", f"local-density-image{name}", HIGH, auroc=value + noise
            )[place : place + 1]
            cells.append(cell)
    names = [f"local-density-image{name}" for name in ("", "-slof", "-dao")]
    (found,) = compare_claims(shown(cells, *names))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("with_one", "without", "verdict"),
    [
        (6, 0, "agrees"),
        (5, 0, "agrees"),  # p = 0.008
        (3, 0, "undecided"),  # p = 0.09
        (0, 0, "does not agree"),  # finds none
        (6, 6, "does not agree"),  # flags all
        (3, 3, "undecided"),
        (0, 6, "does not agree"),
    ],
)
def test_a_check_for_triggers(with_one: int, without: int, verdict: str) -> None:
    check: dict[str, Any] = {"kind": "check", "method": "decree"}
    cells = with_trigger("patch", "none", HIGH) + cells_of("II", "none", HIGH)
    pieces = [(goal, seed) for goal in ("a2b", "b2c", "c2a") for seed in (5, 6)]
    for row, attack, flagged in (("patch", "patch-backdoor", with_one), ("II", "x", without)):
        cells += [
            cell(row, "decree", goal, seed, attack=attack, alarms=int(number < flagged), **check)
            for number, (goal, seed) in enumerate(pieces)
        ]
    (found,) = compare_claims(shown(cells, "decree"))
    assert found.verdict == verdict
    assert found.measured == f"{with_one} of 6 with a trigger, {without} of 6 without"
