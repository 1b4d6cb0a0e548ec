"""Records of JSON files: written as they were read, absent stays absent, a broken file is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.reporting.conftest import example_metrics, example_rank_lists, example_suspicious

from mmpoison.errors import InputError
from mmpoison.records.run_files import (
    EmbeddingMap,
    GoalRow,
    Metrics,
    RankLists,
    RepairCurve,
    RunFacts,
    SuspiciousPair,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "expected"


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("run-*.json")), ids=lambda file: file.stem)
def test_a_run_is_written_to_the_bytes_it_was_read_from(file: Path) -> None:
    metrics = json.loads(file.read_text("utf-8"))["metrics.json"]
    assert json.dumps(Metrics.of(metrics).to_json()) == json.dumps(metrics)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Metrics, {}),
        (Metrics, example_metrics()),
        (Metrics, {"run": {"seed": 1, "from_the_future": [1]}, "another": {"section": None}}),
        (RankLists, example_rank_lists()),
        (EmbeddingMap, {"models": {"a": {"texts": [[1, 2.5, 0]]}}, "method": "pca"}),
        (RepairCurve, {"branches": [{"learning_rate": 1, "looks": [{"step": 1, "z": 2}]}]}),
        *((SuspiciousPair, pair) for pair in example_suspicious()[:2]),
    ],
)
def test_order_and_unknown_keys_are_kept(kind: Any, value: dict[str, Any]) -> None:
    assert json.dumps(kind.of(value).to_json()) == json.dumps(value)


def test_what_is_absent_reads_as_nothing() -> None:
    metrics = Metrics.of({"goal": None, "run": {"flags": None, "goals": "a2b"}})
    assert metrics.goals == ["a2b"]
    assert metrics.row("a2b", "poisoned") == GoalRow()
    assert metrics.row("a2b", "poisoned").number("hit@10") is None
    assert metrics.spread("a2b", "poisoned").median is None
    assert metrics.run.filter is None


def test_values_by_their_json_keys() -> None:
    row = GoalRow.of({"hit@10": 1, "extra": 2})
    assert (row["hit@10"], row.hit_10, row.number("extra")) == (1, 1, 2.0)
    assert repr(row) == "GoalRow(hit@10=1, extra=2)"
    with pytest.raises(KeyError):
        row["hit@1"]
    assert Metrics.of({"goal": {"a2b": {"poisoned": row}}})["goal"]["a2b"]["poisoned"] is row


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1], "must be an object, not a list"),
        ({"goal": 3}, "goal must be an object, not a number"),
        ({"goal": {"a2b": {"x": [0.5]}}}, "goal.a2b.x must be an object, not a list"),
        ({"goal": {"a2b": {"x": {"hit@1": "1"}}}}, "goal.a2b.x.hit@1 must be a number, not text"),
        (
            {"goal": {"a2b": {"x": {"ties": True}}}},
            "ties must be a whole number, not a truth value",
        ),
        ({"run": {"flags": [3]}}, "run.flags.0 must be text, not a number"),
        (
            {"ranks": {"g": {"m": {"interval": {"hit@1": [0]}}}}},
            "interval.hit@1 is not as expected",
        ),
        ({"utility": {"a\nb": 1}}, r"utility.a\nb must be an object, not a number"),
    ],
)
def test_a_wrong_kind_of_value_is_one_line(tmp_path: Path, value: Any, says: str) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(value))
    with pytest.raises(InputError) as error:
        Metrics.read(file)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{file}: ")
    assert says in line


def test_a_list_of_records(tmp_path: Path) -> None:
    file = tmp_path / "suspicious_pairs.json"
    file.write_text('[{"caption": "a"}, {"caption": 1}]')
    with pytest.raises(InputError, match=r"suspicious_pairs\.json: item 1: caption must be text"):
        SuspiciousPair.read_list(file)
    file.write_text("{}")
    with pytest.raises(InputError, match=r"suspicious_pairs\.json: must be a list, not an object"):
        SuspiciousPair.read_list(file)


def test_a_record_is_not_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunFacts(seed=1).seed = 2  # type: ignore[misc]
