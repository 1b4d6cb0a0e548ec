"""Two settings, paired by seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from tests.reporting.conftest import shown_lines

from mmpoison.errors import InputError
from mmpoison.reporting.compare import compare_models, compare_runs
from mmpoison.reporting.table import markdown
from mmpoison.reporting.terminal_tables import terminal

IMAGE = {0: 0.50, 1: 0.60, 2: 0.55, 3: 0.58, 4: 0.49}
TEXT = {0: 0.70, 1: 0.66, 2: 0.80, 3: 0.71, 4: 0.65}


def write(folder: Path, hits: dict[int, float], goal: str = "sheep2aeroplane", **run: Any) -> Path:
    for seed, hit in hits.items():
        row = {"hit@1": 0.0, "hit@10": hit, "min_rank": 10 - hit}
        clean = {"hit@1": 0.0, "hit@10": 0.1, "min_rank": 40.0}
        metrics = {
            "goal": {goal: {"poisoned": row, "clean_model": clean}},
            "utility": {"poisoned": {"image_retrieval": {"hit@10": 0.9}}},
            "drift": {"text": hit / 10, "image": hit / 20},
            "run": {"recipe": "small", "seed": seed, "mode": "add", "poisoned_pairs": 5, **run},
        }
        (folder / f"seed{seed}").mkdir(parents=True)
        (folder / f"seed{seed}" / "metrics.json").write_text(json.dumps(metrics))
    return folder


def rows(table: Any) -> dict[str, dict[str, Any]]:
    return {row["Measure"]: row for row in table.to_json()["rows"]}


def test_two_settings(tmp_path: Path) -> None:
    image = write(tmp_path / "image", IMAGE, trainable="image")
    text = write(tmp_path / "text", {**TEXT, 9: 0.1}, trainable="text")
    tables = compare_runs([image], [text])
    assert [table.title.split(".")[0] for table in tables] == ["Clean", "Poisoned", "Drift"]
    assert "trained: image" in tables[1].title
    got = rows(tables[1])["Hit@10"]
    expected = stats.ttest_rel(list(TEXT.values()), list(IMAGE.values()))
    # seed 9 has no partner
    assert got["n"] == 5
    assert got["first"] == pytest.approx(0.544)
    assert got["difference"] == pytest.approx(0.16)
    assert got["t p"] == pytest.approx(expected.pvalue)
    assert got["Wilcoxon p"] == 0.0625
    interval = expected.confidence_interval()
    assert got["95% interval"] == pytest.approx([interval.low, interval.high])
    assert set(rows(tables[1])) == {"Hit@1", "Hit@10", "MinRank", "IR Hit@10"}
    # a measure that never differs is tested by nothing
    assert rows(tables[1])["Hit@1"]["t p"] is None
    assert rows(tables[1])["Hit@1"]["Wilcoxon p"] == 1
    assert rows(tables[2])["drift of texts"]["difference"] == pytest.approx(0.016)


def test_two_models_of_the_same_runs(tmp_path: Path) -> None:
    runs = write(tmp_path / "runs", IMAGE)
    (table,) = compare_models([runs], "clean_model", "poisoned")
    got = rows(table)["Hit@10"]
    assert (got["first"], got["n"]) == (pytest.approx(0.1), 5)
    assert got["difference"] == pytest.approx(0.444)
    # what only one of them has is no row
    assert "IR Hit@10" not in rows(table)


def test_other_goals_compare_where_there_is_one_each(tmp_path: Path) -> None:
    one = write(tmp_path / "one", IMAGE)
    other = write(tmp_path / "other", TEXT, goal="sofa2bird")
    assert "sofa2bird" in compare_runs([one], [other])[0].title


def test_several_goals_are_matched(tmp_path: Path) -> None:
    for side in ("one", "other"):
        write(tmp_path / side / "a", IMAGE, "a2b")
        write(tmp_path / side / "c", TEXT, "c2d")
    sides = [[tmp_path / side / goal for goal in "ac"] for side in ("one", "other")]
    tables = compare_runs(*sides)
    assert sum("a2b" in table.title for table in tables) == 3
    assert sum("c2d" in table.title for table in tables) == 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("seeds", "have no seed in common"),
        ("settings", ": several settings of one goal"),
        ("goals", "have no goal in common"),
        ("nothing", "no metrics.json here or below"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, name: str, says: str) -> None:
    one = [write(tmp_path / "one", IMAGE)]
    (tmp_path / "nothing").mkdir()
    other = {
        "seeds": [write(tmp_path / "seeds", {7: 0.1})],
        "settings": [write(tmp_path / t, IMAGE, trainable=t) for t in ("image", "text")],
        "goals": [write(tmp_path / g, IMAGE, g) for g in ("a2b", "c2d")],
        "nothing": [tmp_path / "nothing"],
    }[name]
    with pytest.raises(InputError, match=says):
        compare_runs(one, other)


def test_models_that_are_not_there(tmp_path: Path) -> None:
    runs = [write(tmp_path / "runs", IMAGE)]
    with pytest.raises(InputError, match="unknown model 'poisned': did you mean 'poisoned'"):
        compare_models(runs, "clean_model", "poisned")
    with pytest.raises(InputError, match="none of the runs measured both poisoned and filtered"):
        compare_models(runs, "poisoned", "filtered")


def test_the_tables_can_be_read(tmp_path: Path) -> None:
    tables = compare_runs([write(tmp_path / "i", IMAGE)], [write(tmp_path / "t", TEXT)])
    text = markdown(tables)
    assert "| Hit@10 | 5 | 0.544 | 0.704 | 0.160 | [" in text
    assert "not corrected for the number of rows" in text
    shown_lines(terminal(tables))
