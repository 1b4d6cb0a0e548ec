"""What a filter says of its result: its set from any folder, the name of its score, its suspected goals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmpoison.defenses.filters.filtered_folder import FilterFacts, data_pointer, read_filter_facts
from mmpoison.errors import InputError

GOAL = {"sentence": "captions about sheep", "why": "31 alike", "other_explanations": ["chance"]}


def write(folder: Path, facts: Any = None, goals: Any = None) -> Path:
    (folder / "filter-report").mkdir(parents=True)
    if facts is not None:
        (folder / "filter-report" / "filter.json").write_text(json.dumps(facts))
    if goals is not None:
        (folder / "suspected-goals.json").write_text(json.dumps(goals))
    return folder


def test_the_set_is_found_from_any_folder_and_after_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "sets" / "pairs").mkdir(parents=True)
    monkeypatch.chdir(work / "sets")
    pointer = data_pointer("pairs", Path("../out/kept"))
    assert pointer == {"data_path": "../../sets/pairs"}
    kept = write(work / "out" / "kept", {"data": "pairs", **pointer})
    monkeypatch.chdir(tmp_path)
    assert read_filter_facts(kept).source(kept) == str(work / "sets" / "pairs")
    relative = Path("work/out/kept")
    assert read_filter_facts(relative).source(relative) == str(work / "sets" / "pairs")
    # the two are moved together
    moved = tmp_path / "moved"
    shutil.move(work, moved)
    kept = moved / "out" / "kept"
    assert read_filter_facts(kept).source(kept) == str(moved / "sets" / "pairs")
    # the set was moved alone
    shutil.move(moved / "sets" / "pairs", tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"is not at .*sets/pairs \(any more\): name it with"):
        read_filter_facts(kept).source(kept)
    # the result was moved alone, and the path as it was given is still right
    (tmp_path / "pairs").mkdir()
    assert read_filter_facts(kept).source(kept) == "pairs"


@pytest.mark.parametrize("name", ["openmoji", "hf:who/what", "x" * 5000, "a\0b"])
def test_a_set_without_a_path(tmp_path: Path, name: str) -> None:
    assert data_pointer(name, tmp_path / "kept") == {}
    if "\0" not in name:
        kept = write(tmp_path / "kept", {"data": name})
        assert read_filter_facts(kept).source(kept) == name


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"score_name": "evidence", "method": "relevance-filter"}, "evidence"),
        ({"method": "relevance-filter"}, "cosine distance of image and caption"),
        ({"method": "gmm-split"}, "log odds that image and caption do not match"),
        ({"method": "of somebody else"}, "score"),
        ({"method": "clean-finetune"}, "score"),  # known, and no filter
        ({"method": ["x"], "score_name": 3}, "score"),
        ({}, "score"),
    ],
)
def test_the_score_has_its_name(tmp_path: Path, facts: dict[str, Any], name: str) -> None:
    assert read_filter_facts(write(tmp_path / "kept", facts)).score_name == name


def test_goals_are_read(tmp_path: Path) -> None:
    kept = write(tmp_path / "kept", goals={"goals": [GOAL, {"sentence": "a", "why": "b"}]})
    first, second = read_filter_facts(kept).goals
    assert (first.sentence, first.why) == (GOAL["sentence"], GOAL["why"])
    assert first.other_explanations == ("chance",)
    assert second.other_explanations == ()
    assert read_filter_facts(tmp_path) == FilterFacts()


@pytest.mark.parametrize(
    ("facts", "goals", "says"),
    [
        ([], None, "filter.json: an object is needed"),
        ({}, [], "suspected-goals.json: an object is needed"),
        ({}, {"goals": 3}, "goals must be a list"),
        ({}, {"goals": [GOAL, 3]}, "goal 1: an object is needed"),
        ({}, {"goals": [{**GOAL, "why": 3}]}, "goal 0: a sentence, why and other_explanations"),
        ({}, {"goals": [{**GOAL, "other_explanations": "x"}]}, "goal 0: a sentence, why and"),
    ],
)
def test_what_is_broken_is_one_line(tmp_path: Path, facts: Any, goals: Any, says: str) -> None:
    kept = write(tmp_path / "kept", facts, goals)
    with pytest.raises(InputError) as error:
        read_filter_facts(kept)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
