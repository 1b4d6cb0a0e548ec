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
from mmpoison.datasets.verify import verify_pairs
from mmpoison.defenses import FilterResult, RelevanceFilter, Threshold
from mmpoison.defenses.scan.cut.judging import filter_pairs
from mmpoison.defenses.scan.cut.result import auroc, average_precision
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.read.vectors import embed_pairs
from mmpoison.defenses.scan.write.own_files import save_kept
from mmpoison.errors import InputError
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


def test_dropping_everything_is_an_error(
    judge: DualEncoder, train: PairDataset, inputs: PixelInputs
) -> None:
    with pytest.raises(InputError, match=r"threshold 0\.001 drops every pair: scores run from"):
        filter_pairs(train, judge, RelevanceFilter(threshold=0.001), inputs=inputs)


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


def filtered(poisoned: PairDataset, out: Path, drop: int) -> tuple[PairDataset, FilterResult]:
    """Write the set after a filter that dropped so many poisoned and so many clean pairs; gives what stayed."""
    judged = poisoned.select(split="train")
    keep = np.ones(len(judged), dtype=bool)
    keep[np.flatnonzero(judged.poisoned)[:drop]] = False
    keep[np.flatnonzero(~judged.poisoned)[:drop]] = False
    result = result_of(judged, keep, np.linspace(0.1, 1.9, len(judged)))
    pieces = PairPieces(poisoned, images_at_once=7)
    save_kept(pieces, keep, result.facts(), out)
    return judged.where(keep), result


@pytest.mark.parametrize("drop", [0, 5, 13])
def test_the_folder_comes_back(poisoned: PairDataset, tmp_path: Path, drop: int) -> None:
    stayed, _ = filtered(poisoned, tmp_path / "out", drop)
    again = load_pairs(tmp_path / "out")
    kept = again.select(split="train")
    assert list(kept.captions) == list(stayed.captions)
    assert list(kept.image) == list(stayed.image)
    assert list(kept.poisoned) == list(stayed.poisoned)
    for split in ("val", "test"):
        assert again.select(split=split).counts() == poisoned.select(split=split).counts()
    # the manifest goes along, cut down, also when nothing of the poison is left
    assert again.manifest is not None
    assert poisoned.manifest is not None
    assert len(again.manifest.pairs) == 13 - drop
    assert set(again.manifest.pairs) <= set(poisoned.manifest.pairs)
    assert again.manifest.training_pairs == len(kept)
    assert again.manifest.filtered is not None
    assert again.manifest.filtered["poisoned_caught"] == drop
    assert again.manifest.filtered["dropped_pairs"] == 2 * drop
    assert again.manifest.rate == again.poisoning_rate
    assert verify_pairs(again).problems == []


def test_a_set_without_manifest_gets_none(squares: PairDataset, tmp_path: Path) -> None:
    train = squares.in_split("train")
    keep = np.arange(int(train.sum())) % 2 == 0
    out = save_kept(PairPieces(squares), keep, {}, tmp_path / "out")
    assert not (out / "manifest.json").exists()
    stays = ~train
    stays[train] = keep
    assert load_pairs(out).fingerprint == squares.where(stays).fingerprint


def test_an_occupied_folder_is_refused(poisoned: PairDataset, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not empty"):
        filtered(poisoned, tmp_path / "out", 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]


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
