"""A repair as a table and as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmpoison.reporting.repair import no_loss_shown, repair_table, write_repair_figures
from mmpoison.reporting.table import markdown


def probe(step: int, hit: float, lost: float, before: float = 0.9) -> dict[str, Any]:
    utility = {way: {"hit@10": before - lost} for way in ("image_retrieval", "text_retrieval")}
    return {
        "step": step,
        "utility": utility,
        "utility_loss": lost,
        "drift": {"text": 0.1, "image": 0.2},
        "test": {"goal": {"sheep2aeroplane": {"hit@10": hit, "min_rank": 7.5}}},
    }


CURVE: dict[str, Any] = {
    "rule": {"choice": "the highest that keeps it"},
    "held_out": {"images": 200, "pairs": 1000, "hit_at": 10},
    "branches": [
        {
            "learning_rate": 1e-5,
            "keeps_utility": True,
            "chosen": True,
            "looks": [probe(0, 1, 0), probe(5, 0.5, 0.01)],
        },
        {
            "learning_rate": 1e-3,
            "keeps_utility": False,
            "chosen": False,
            "looks": [probe(0, 1, 0), probe(5, 0.0, 0.4)],
        },
        {"learning_rate": 1.0, "keeps_utility": False, "chosen": False, "looks": []},
    ],
}


def test_the_table_says_what_was_chosen_and_what_was_refused() -> None:
    table = repair_table(CURVE)
    assert [row[:3] for row in table.rows] == [
        ("before", 0, 1),
        ("1e-05 (chosen)", 5, 0.5),
        ("0.001 (refused)", 5, 0.0),
        ("1 (refused)", None, None),
    ]
    assert "| 1e-05 (chosen) | 5 | 0.500 | 7.5 |" in markdown([table])
    assert "the highest that keeps it" in table.note


@pytest.mark.parametrize(("lost", "shown"), [(0.0, None), (0.01, 0.01)])
def test_a_loss_that_cannot_show_is_not_zero(lost: float, shown: float | None) -> None:
    """Every query is a hit before: a repair after which that is still so has no measured loss."""
    looks = [probe(0, 1, 0, 1.0), probe(5, 0.5, lost, 1.0)]
    curve = {**CURVE, "branches": [{**CURVE["branches"][0], "looks": looks}]}
    table = repair_table(curve)
    place = [column.name for column in table.columns].index("utility lost")
    assert table.rows[1][place] == shown
    assert no_loss_shown(curve).startswith("utility lost: not measured") == (shown is None)


@pytest.mark.parametrize("goals", [True, False])
def test_figures_are_the_same_file_twice(tmp_path: Path, goals: bool) -> None:
    pytest.importorskip("matplotlib")
    curve = CURVE
    if not goals:
        branch = CURVE["branches"][0]
        probes = [{k: v for k, v in one.items() if k != "test"} for one in branch["looks"]]
        curve = {**CURVE, "branches": [{**branch, "looks": probes}]}
    first = write_repair_figures(tmp_path / "one", curve)
    second = write_repair_figures(tmp_path / "two", curve)
    assert [path.name for path in first] == ["one.png", "one.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    label = "Hit@10 of the goal" if goals else "drift from the suspect"
    assert f"<!-- {label}" in first[1].read_text()
