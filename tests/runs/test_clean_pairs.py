"""Which clean pairs align the towers of a run, and which repair its poisoned model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.runs.prepared_run import alignment_pairs, repair_pairs
from mmpoison.runs.recipe import FilterPart, SterilizePart

CLEAN = {"a 0", "a 1", "a 2", "u 0", "u 1"}


@pytest.fixture
def pairs(write_lines: Callable[..., Path]) -> PairDataset:
    """Clean pairs of split val: three with a label, two without."""
    folder = write_lines(
        *({"image": f"a{n}.jpg", "captions": [f"a {n}"], "label": "a", "split": "val"} for n in range(3)),
        *({"image": f"u{n}.jpg", "captions": [f"u {n}"], "split": "val"} for n in range(2)),
        {"image": "t.jpg", "captions": ["t"], "label": "a", "split": "train"},
    )  # fmt: skip
    return load_dataset(str(folder))


def test_model_and_judge_are_aligned_on_other_images(pairs: PairDataset) -> None:
    model, judge = (
        set(alignment_pairs(pairs, name, halves=0).captions) for name in ("pretrained", "judge")
    )
    assert {len(model), len(judge)} == {2, 3}
    assert model | judge == set(alignment_pairs(pairs).captions) == CLEAN


def test_a_recipe_without_an_aligned_judge_is_written_as_before() -> None:
    judge = FilterPart.model_validate({"encoder": "pretrained"})
    assert "align" not in judge.model_dump(mode="json")
    aligned = FilterPart.model_validate({"encoder": "a", "align": {"epochs": 1}})
    assert aligned.model_dump(mode="json")["align"]["epochs"] == 1


def test_a_repair_takes_all_clean_pairs_or_some(pairs: PairDataset) -> None:
    part = SterilizePart.model_validate({"training": {"epochs": 1}})
    assert set(repair_pairs(pairs, part, 0).captions) == CLEAN
    some = repair_pairs(pairs, part.model_copy(update={"pairs": 2}), 0)
    assert len(some) == 2
