"""Several settings in one report: distinguished by what differs, and side by side in one table."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from mmpoison.errors import InputError
from mmpoison.reporting.html_report import render_runs_html
from mmpoison.reporting.seeds import seed_tables
from mmpoison.reporting.table import Table, markdown
from mmpoison.statistics import Summary

GOALS = ("sheep2boat", "cat2dog", "boat2<b>dog</b>")


def write_run(
    folder: Path, seed: int, goals: tuple[str, ...] = GOALS[:1], **settings: Any
) -> dict[str, Any]:
    """A run whose numbers hang on its seed, goals and rate, and the recipe beside it."""
    rate = settings.get("rate", 0.001)
    utility = {
        model: {
            "image_retrieval": {"hit@10": 0.5 + 0.01 * seed + gain},
            "text_retrieval": {"hit@10": 0.4 - gain * seed},
        }
        for model, gain in (("clean_model", 0.0), ("poisoned", rate * 10), ("filtered", 0.02))
    }
    metrics: dict[str, Any] = {
        "goal": {
            goal: {
                "clean_model": {"hit@10": 0.01 * seed, "min_rank": 90.0 + seed},
                "poisoned": {"hit@10": 0.3 + 0.1 * seed + rate + len(goal) / 100, "min_rank": seed},
            }
            for goal in goals
        },
        "utility": utility,
        "drift": {"text": 0.1 + seed, "image": 0.2},
        "run": {
            "recipe": "small",
            "seed": seed,
            "mode": "add",
            "poisoned_pairs": 125,
            "goals": list(goals),
            "filter": {
                "auroc": 0.9,
                "poisoned_caught": 5 + seed,
                "poisoned_total": 20,
                "clean_dropped_share": 0.02,
            },
        },
    }
    recipe = {
        "name": "small",
        "seed": seed,
        "data": {"name": "scenes", "root": str(folder)},
        "attack": {"goal": list(goals)},
        "training": {"learning_rate": rate, "min_learning_rate": rate / 10},
        "filter": settings.get("filter"),
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return metrics


def overview(tables: list[Table]) -> list[Table]:
    return [table for table in tables if table.of_all]


def test_a_part_that_only_some_have_tells_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 0, filter={"method": "groups", "loss": 0.1})
    titles = [table.title for table in seed_tables([tmp_path]) if table.of_models]
    assert [title.split(", ")[-2] for title in titles] == [
        "filter.method groups",
        "filter.method none",
    ]


def test_the_same_setting_twice_is_refused_still(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 1)
    write_run(tmp_path / "b", 1)
    with pytest.raises(InputError, match="seed 1 of small, sheep2boat, add was given twice"):
        seed_tables([tmp_path])


def test_one_setting_has_no_table_of_all(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed)
    tables = seed_tables([tmp_path])
    assert not overview(tables)
    assert tables[0].title == "small, sheep2boat, mode add, 125 poisoned pairs, seeds 0, 1"


def test_all_settings_side_by_side(tmp_path: Path) -> None:
    runs = {
        (goal, seed): write_run(tmp_path / f"{number}-{seed}", seed, (goal,))
        for number, goal in enumerate(GOALS)
        for seed in (0, 1, 2)
    }
    found, costs = overview(seed_tables([tmp_path]))
    assert [column.name for column in found.columns] == [
        "Setting",
        "n",
        "Clean Hit@10",
        "Poisoned Hit@10",
        "Clean MinRank",
        "Poisoned MinRank",
    ]
    means = []
    for goal, row in zip(sorted(GOALS), found.rows, strict=False):
        hits = [runs[goal, seed]["goal"][goal]["poisoned"]["hit@10"] for seed in (0, 1, 2)]
        cell = row[3]
        assert row[:2] == (goal, 3)
        assert isinstance(cell, Summary)
        assert (cell.mean, cell.sd) == pytest.approx((mean(hits), stdev(hits)))
        means.append(mean(hits))
    last = found.rows[-1]
    assert last[:2] == ("mean of goals", 3)
    assert isinstance(last[3], Summary)
    assert (last[3].mean, last[3].sd) == pytest.approx((mean(means), stdev(means)))
    assert len(found.rows) == 4
    cost = dict(zip((column.name for column in costs.columns), costs.rows[0], strict=True))
    texts = [-0.01 * seed for seed in (0, 1, 2)]
    assert isinstance(cell := cost["Poisoned TR"], Summary)
    assert (cell.mean, cell.sd) == pytest.approx((mean(texts), stdev(texts)))
    assert isinstance(cell := cost["Filtered IR"], Summary)
    assert cell.mean == pytest.approx(0.02)
    assert isinstance(cell := cost["caught"], Summary)
    assert cell.mean == pytest.approx(0.3)
    assert "Sterilized IR" not in cost


def test_a_run_of_several_goals_has_a_row_for_each(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, GOALS[:2])
    # what it costs is of the models, and so the same for both goals: no table of equal rows
    (found,) = overview(seed_tables([tmp_path]))
    assert [row[0] for row in found.rows] == ["cat2dog", "sheep2boat", "mean of goals"]


def test_a_mean_is_of_what_differs_in_the_goal_alone(tmp_path: Path) -> None:
    for number, goal in enumerate(GOALS[:2]):
        for rate in (0.1, 0.2):
            write_run(tmp_path / f"{number}-{rate}", 0, (goal,), rate=rate)
    found, _ = overview(seed_tables([tmp_path]))
    assert [(row[0], row[1]) for row in found.rows][-2:] == [
        ("mean of goals, training.learning_rate 0.1", 2),
        ("mean of goals, training.learning_rate 0.2", 2),
    ]


def test_it_is_in_markdown_without_intervals_and_on_the_page(tmp_path: Path) -> None:
    runs = [tmp_path / f"{number}" for number in range(3)]
    for number, goal in enumerate(GOALS):
        write_run(runs[number], 0, (goal,))
    text = markdown(seed_tables(runs))
    block = text[: text.index("\n\nMean ±")]
    assert block.startswith("**All settings: queries that find a target image**")
    assert "[" not in block
    page = render_runs_html(runs)
    assert "All settings: what it costs" in page
    assert "<b>dog" not in page
