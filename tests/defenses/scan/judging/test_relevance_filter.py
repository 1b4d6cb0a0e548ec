"""The pre-training filter: its verdicts against a loop over pairs, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.defenses import FilterResult, RelevanceFilter, Threshold
from mmpoison.defenses.scan.cut.judging import filter_pairs
from mmpoison.defenses.scan.cut.result import auroc, average_precision
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.read.vectors import embed_pairs
from mmpoison.defenses.scan.write.own_files import save_kept
from mmpoison.images import read_image
from mmpoison.metrics import cosine_distance
from mmpoison.models import DualEncoder, PixelInputs


def naive_distances(judge: DualEncoder, pairs: PairDataset) -> list[float]:
    distances: list[float] = []
    with torch.no_grad():
        for caption, image in zip(pairs.captions, pairs.image, strict=True):
            pixels = read_image(pairs.root, pairs.images.ids[image], judge.image_size)
            one = judge.encode_image(judge.image_input(pixels[None].copy()))[0]
            other = judge.encode_text(judge.tokens([caption]))[0]
            distances.append(1 - float(one @ other))
    return distances


def pair_distances(judge: DualEncoder, inputs: PixelInputs, pairs: PairDataset) -> Any:
    return cosine_distance(*embed_pairs(judge, inputs, pairs))


def test_distances_and_verdicts_equal_a_loop_over_pairs(
    judge: DualEncoder, train: PairDataset, inputs: PixelInputs
) -> None:
    expected = naive_distances(judge, train)
    got = pair_distances(judge, inputs, train)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # a threshold between two distances
    ordered = np.sort(expected)
    threshold = float(ordered[90] + ordered[91]) / 2
    result = filter_pairs(train, judge, RelevanceFilter(threshold=threshold), inputs=inputs)
    assert result.threshold == threshold
    kept = [caption for caption, d in zip(train.captions, expected, strict=True) if d <= threshold]
    assert result.kept is not None
    assert list(result.kept.captions) == kept
    assert result.keep.sum() == len(kept) == 91


def test_clean_loss_is_a_quantile_of_trusted_pairs(
    judge: DualEncoder, poisoned: PairDataset, train: PairDataset, inputs: PixelInputs
) -> None:
    trusted = poisoned.select(split="val")
    result = filter_pairs(poisoned, judge, RelevanceFilter(clean_loss=0.25), inputs=inputs)
    lost = pair_distances(judge, inputs, trusted) > result.threshold
    assert len(lost) == 60
    assert lost.mean() == pytest.approx(0.25, abs=1 / 60)
    np.testing.assert_array_equal(
        result.keep, pair_distances(judge, inputs, train) <= result.threshold
    )


def test_clean_loss_without_trusted_pairs_is_a_quantile_of_the_judged(
    judge: DualEncoder, train: PairDataset, inputs: PixelInputs
) -> None:
    distances = pair_distances(judge, inputs, train)
    result = filter_pairs(train, judge, RelevanceFilter(clean_loss=0.1), inputs=inputs)
    assert result.threshold == pytest.approx(np.quantile(distances, 0.9), abs=1e-6)
    assert (~result.keep).sum() == 16


# -- what is said of it ----------------------------------------------------------------------------

scores = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=15)


@given(positive=scores, negative=scores)
def test_auroc_equals_counting_pairs(positive: list[float], negative: list[float]) -> None:
    wins = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    got = auroc(np.array(positive), np.array(negative))
    assert got == pytest.approx(wins / len(positive) / len(negative))


@given(positive=scores, negative=scores)
def test_average_precision_equals_walking_down_the_list(
    positive: list[float], negative: list[float]
) -> None:
    area = before = 0.0
    for cut in sorted({*positive, *negative}, reverse=True):
        hits, alarms = sum(p >= cut for p in positive), sum(n >= cut for n in negative)
        area += (hits / len(positive) - before) * hits / (hits + alarms)
        before = hits / len(positive)
    assert average_precision(np.array(positive), np.array(negative)) == pytest.approx(area)


def result_of(
    pairs: PairDataset, keep: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> FilterResult:
    """A result of a filter that decided so."""
    bad = pairs.poisoned if pairs.manifest is not None else None
    return FilterResult(keep, scores, Threshold(1.0, "given"), "m", "e", bad)


def test_facts_count(train: PairDataset) -> None:
    keep = np.ones(len(train), dtype=bool)
    bad, good = np.flatnonzero(train.poisoned), np.flatnonzero(~train.poisoned)
    keep[bad[:10]] = False
    keep[good[:14]] = False
    facts = result_of(train, keep, np.where(keep, 0.5, 1.5)).facts()
    bins = facts.pop("histogram")
    assert (sum(bins["clean"]), sum(bins["poisoned"])) == (140, 13)
    assert (bins["poisoned"][0], bins["poisoned"][-1]) == (3, 10)
    assert len(bins["edges"]) == len(bins["clean"]) + 1
    assert facts == {
        "method": "m",
        "encoder": "e",
        "threshold": 1.0,
        "pairs": 153,
        "dropped_pairs": 24,
        "clean_dropped": 14,
        "clean_dropped_share": 0.1,
        "poisoned_caught": 10,
        "poisoned_total": 13,
        "auroc": pytest.approx((10 * (126 + 7) + 3 * 63) / (13 * 140)),
        "average_precision": pytest.approx((10 * (10 / 24) + 3 * (13 / 153)) / 13),
    }


def test_facts_of_a_set_without_a_manifest_know_nothing_of_poison(squares: PairDataset) -> None:
    keep = np.ones(len(squares), dtype=bool)
    result = result_of(squares, keep, np.zeros(len(squares)))
    known = {"method": "m", "encoder": "e", "threshold": 1.0}
    assert result.facts() == {**known, "pairs": len(squares), "dropped_pairs": 0}
    assert repr(result) == f"FilterResult(m: 0 of {len(squares)} pairs dropped)"


def test_facts_where_every_pair_is_poisoned(train: PairDataset) -> None:
    bad = train.select(poisoned=True)
    facts = result_of(bad, np.ones(len(bad), dtype=bool), np.linspace(0.1, 1, len(bad))).facts()
    json.dumps(facts, allow_nan=False)
    assert facts["poisoned_total"] == 13


# -- what is written -------------------------------------------------------------------------------


def test_equal_poisoned_pairs_are_distinguished(tmp_path: Path, poisoned: PairDataset) -> None:
    """Two samples may carry the same caption onto the same image."""
    from mmpoison.datasets import ImageTable

    images = ImageTable.build(
        ["s1", "s2", "t", "u"],
        ["sheep", "sheep", "aeroplane", "aeroplane"],
        ["train", "train", "train", "test"],
        tmp_path,
    )
    clean = PairDataset.build(images, ["same", "same", "plane", "jet"], [0, 1, 2, 3])
    both = SingleTargetLabel("sheep2aeroplane", samples=2).poison(clean)
    train = both.select(split="train")
    keep = np.ones(len(train), dtype=bool)
    keep[np.flatnonzero(train.poisoned)[0]] = False
    out = save_kept(PairPieces(both), keep, {}, tmp_path / "out", images="none")
    left: Any = load_pairs(out).manifest
    kept = train.where(keep)
    assert [pair.clean_image for pair in left.pairs] == [
        images.ids[kept.source[row]] for row in np.flatnonzero(kept.poisoned)
    ]
