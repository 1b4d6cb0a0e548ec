"""Which clean pairs align the towers of a run, and which repair its poisoned model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import refusal

from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.runs.prepared_run import alignment_pairs, repair_pairs
from mmpoison.runs.recipe import FilterPart, SterilizePart


@pytest.fixture
def pairs(write_lines: Callable[..., Path]) -> PairDataset:
    """Clean pairs of split val: three with a label, two without."""
    folder = write_lines(
        *({"image": f"a{n}.jpg", "captions": [f"a {n}"], "label": "a", "split": "val"} for n in range(3)),
        *({"image": f"u{n}.jpg", "captions": [f"u {n}"], "split": "val"} for n in range(2)),
        {"image": "t.jpg", "captions": ["t"], "label": "a", "split": "train"},
    )  # fmt: skip
    return load_dataset(str(folder))


def part(**keys: Any) -> SterilizePart:
    return SterilizePart.model_validate({"training": {"epochs": 1}, **keys})


def repaired_with(clean: PairDataset, **keys: Any) -> set[str]:
    return set(repair_pairs(clean, part(**keys), 0).captions)


def test_towers_are_aligned_on_pairs_without_a_label(pairs: PairDataset) -> None:
    assert set(alignment_pairs(pairs).captions) == {"u 0", "u 1"}


def test_towers_are_aligned_on_all_where_each_has_a_label(pairs: PairDataset) -> None:
    labelled = pairs.where([caption[0] != "u" for caption in pairs.captions])
    assert set(alignment_pairs(labelled).captions) == {"a 0", "a 1", "a 2"}


def test_model_and_judge_are_aligned_on_other_images(pairs: PairDataset) -> None:
    model, judge = (
        set(alignment_pairs(pairs, name, halves=0).captions) for name in ("pretrained", "judge")
    )
    assert len(model) == len(judge) == 1
    assert model | judge == {"u 0", "u 1"}


def test_a_recipe_without_an_aligned_judge_is_written_as_before() -> None:
    judge = FilterPart.model_validate({"encoder": "pretrained"})
    assert "align" not in judge.model_dump(mode="json")
    aligned = FilterPart.model_validate({"encoder": "a", "align": {"epochs": 1}})
    assert aligned.model_dump(mode="json")["align"]["epochs"] == 1


def test_a_repair_takes_all_clean_pairs_or_those_with_a_label(pairs: PairDataset) -> None:
    assert repaired_with(pairs) == {"a 0", "a 1", "a 2", "u 0", "u 1"}
    assert repaired_with(pairs, labelled=True) == {"a 0", "a 1", "a 2"}
    some = repaired_with(pairs, labelled=True, pairs=2)
    assert len(some) == 2
    assert some < {"a 0", "a 1", "a 2"}


def test_too_few_clean_pairs_with_a_label_are_refused(pairs: PairDataset) -> None:
    unlabelled = pairs.where([caption[0] == "u" for caption in pairs.captions])
    said = refusal(repaired_with, unlabelled, labelled=True)
    assert "sterilize.labelled" in said
    assert "data.options.held_out" in said


def test_a_recipe_that_does_not_ask_for_labels_is_written_as_before() -> None:
    assert "labelled" not in part().model_dump(mode="json")
    assert part(labelled=True).model_dump(mode="json")["labelled"] is True
