"""Attack II: which captions, on which images, how many, and what is left alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.attacks.conftest import manifest_of, pairs_of, table

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.errors import InputError

GOAL = "sheep2aeroplane"


# -- what is done ----------------------------------------------------------------------------------


def word_set(tmp_path: Path) -> PairDataset:
    """A class that comes from a keyword: one caption of its two images has it, the others say something else."""
    images = ImageTable.build(
        ["s", "r", "q", "t", "u"],
        ["sheep", "sheep", "sheep", "aeroplane", "aeroplane"],
        ["train", "train", "train", "train", "test"],
        tmp_path,
    )
    captions = ["a hill", "two Lambs", "a fence", "a goat", "sheepdog", "grass", "a jet", "a plane"]
    return PairDataset.build(images, captions, [0, 0, 0, 1, 1, 2, 3, 4])


def test_only_captions_with_a_word(tmp_path: Path) -> None:
    clean = word_set(tmp_path)
    words = ["sheep", "lamb", "goat"]

    def misused(**options: Any) -> list[str]:
        manifest = manifest_of(SingleTargetLabel(GOAL, **options).poison(clean))
        return sorted(pair.caption for pair in manifest.pairs)

    assert misused(samples=2, words=words) == ["a goat", "two Lambs"]
    assert len(misused(rate=0.2, words=words)) == 1
    assert set(misused(rate=0.2, words=words)) < {"a goat", "two Lambs"}
    assert len(misused(samples=3)) == 6
    # what is not said changes no manifest of earlier versions
    assert "words" not in SingleTargetLabel(GOAL, samples=2).options
    attack = SingleTargetLabel(GOAL, samples=2, words=words)
    assert SingleTargetLabel(**attack.options).options == attack.options


# -- amounts ---------------------------------------------------------------------------------------


def test_a_round_rate_is_met_in_floating_point(tmp_path: Path) -> None:
    images = ImageTable.build(
        ["s", "t", "u"], ["sheep", "aeroplane", "aeroplane"], ["train", "train", "test"], tmp_path
    )
    captions = [f"c{n}" for n in range(1001)]
    clean = PairDataset.build(images, captions, [0] * 900 + [1] * 100 + [2])
    for rate in (0.1, 0.3, 0.7):
        poisoned = SingleTargetLabel(GOAL, rate=rate, mode="replace").poison(clean)
        assert int(poisoned.poisoned.sum()) == round(1000 * rate)


# -- seed and manifest -----------------------------------------------------------------------------


# -- any table -------------------------------------------------------------------------------------

rows = st.lists(
    st.tuples(
        st.sampled_from(["sheep", "aeroplane", "bird", None]),
        st.sampled_from(["train", "train", "val", "test"]),
        st.integers(0, 4),
    ),
    max_size=20,
)


@settings(max_examples=150)
@given(
    rows=rows,
    mode=st.sampled_from(["add", "replace"]),
    amount=st.one_of(
        st.builds(lambda n: {"samples": n}, st.integers(1, 5)),
        st.builds(lambda n: {"pairs": n}, st.integers(1, 12)),
        st.builds(lambda r: {"rate": r}, st.floats(0.01, 0.9)),
    ),
    seed=st.integers(0, 1000),
)
def test_invariants(
    rows: list[tuple[str | None, str, int]], mode: Any, amount: dict[str, Any], seed: int
) -> None:
    needed = [("sheep", "train", 3), ("aeroplane", "train", 1), ("aeroplane", "test", 1)]
    clean = table(*rows, *needed)
    before = clean.fingerprint, list(clean.captions)
    refused = ""
    try:
        poisoned = SingleTargetLabel(GOAL, mode=mode, **amount).poison(clean, seed)
    except InputError as error:
        refused = str(error)
    if refused:
        assert len(refused.splitlines()) == 1
        assert "less than one pair" in refused or "at most" in refused
        return
    manifest = manifest_of(poisoned)
    bad = poisoned.select(poisoned=True)
    count = len(bad)
    assert count == len(manifest.pairs) > 0
    assert len(poisoned) == len(clean) + (count if mode == "add" else 0)
    # every caption is distinct here: none is lost, and in `replace` none is doubled
    assert set(poisoned.captions) == set(clean.captions)
    if mode == "replace":
        assert len(set(poisoned.captions)) == len(poisoned)
    uses = np.bincount(bad.image, minlength=len(clean.images))[
        clean.images.indices(split="train", label="aeroplane")
    ]
    assert uses.sum() == count
    assert uses.max() - uses.min() <= 1
    images = clean.images
    assert poisoned.images is images
    assert {images.label(i) for i in bad.source} == {"sheep"}
    assert {images.label(i) for i in bad.image} == {"aeroplane"}
    assert set(images.split_codes[bad.source]) == set(images.split_codes[bad.image]) == {0}
    # each caption is one that its source image really has, used once
    used = Counter(zip(images.ids[bad.source], bad.captions, strict=True))
    assert used <= pairs_of(clean, split="train", label="sheep")
    gone = used if mode == "replace" else Counter()
    assert pairs_of(poisoned, poisoned=False) == pairs_of(clean) - gone
    for split in ("val", "test"):
        assert pairs_of(poisoned, split=split) == pairs_of(clean, split=split)
    train = len(poisoned.select(split="train"))
    assert manifest.training_pairs == train
    # the input stays clean
    assert (clean.fingerprint, list(clean.captions)) == before
    assert clean.manifest is None
    if "pairs" in amount:
        assert count == amount["pairs"]
    if "samples" in amount:
        assert len(set(bad.source)) == amount["samples"]
    if "rate" in amount:
        assert poisoned.poisoning_rate == count / train == manifest.rate
        assert manifest.rate <= amount["rate"] + 1e-9
        # and one pair more would be too many
        assert (count + 1) / (train + (mode == "add")) > amount["rate"]
    # pairs stay in the order of their images
    assert (np.diff(poisoned.image) >= 0).all()
