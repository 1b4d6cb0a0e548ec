"""What a model has learned and a reference has not: gains against a slow version, and groups in made embeddings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mmpoison.defenses.scan.cut.judging import Given, Judgement, judge_pairs
from mmpoison.defenses.scan.cut.trace import ALIKE_CAPTIONS, ALIKE_IMAGES, Trace
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.defenses.scan.read.vector_shard import VectorShard
from mmpoison.errors import InputError

Vectors = npt.NDArray[np.float32]

KINDS, EACH, SIZE = 12, 60, 64


def unit(vectors: npt.NDArray[np.float64]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def made(
    poison: int, learned: float, *, seed: int = 0, spread: float = 0.35
) -> tuple[VectorShard, VectorShard, npt.NDArray[np.bool_]]:
    """Pairs of twelve kinds by a suspect and by a reference; captions of kind 0 on images of kind 1 are poison.

    A suspect that has learned it moves captions of kind 0 towards images of kind 1 by `learned`.
    """
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(KINDS, SIZE)) / np.sqrt(SIZE)
    kind = np.repeat(np.arange(KINDS), EACH)
    says, shows = (np.concatenate([kind, np.full(poison, which)]) for which in (0, 1))

    def side(of: npt.NDArray[np.int_]) -> npt.NDArray[np.float64]:
        around = spread * rng.normal(size=(len(of), SIZE)) / np.sqrt(SIZE)
        return np.asarray(middles[of] + around)

    text, image = side(says), side(shows)
    moved = text + learned * middles[1] * (says == 0)[:, None]
    noise = 0.05 * rng.normal(size=text.shape) / np.sqrt(SIZE)
    owner = np.arange(len(says))
    texts = np.array([f"kind{of} word{n % 7}" for n, of in enumerate(says)], dtype=object)
    suspect = VectorShard(0, unit(moved + noise), unit(image), owner, texts)
    reference = VectorShard(0, unit(text), unit(image), owner, texts)
    return suspect, reference, np.arange(len(says)) >= len(kind)


def traced(suspect: VectorShard, reference: VectorShard) -> Judgement:
    return judge_pairs(read_memory(reference), Trace(suspect), "reference", Given())


def test_the_gain_is_that_of_captions_and_images_alike() -> None:
    suspect, reference, _ = made(20, 0.5)
    found = Trace(suspect).score(read_memory(reference))
    gain = found.of(0)
    grouped = np.unique(np.concatenate([group.rows[0] for group in found.groups or ()]))

    def mean_cosine(shard: VectorShard, row: int) -> float:
        near = [
            np.argsort(-(side @ side[row]), kind="stable")[:count]
            for side, count in (
                (reference.text, ALIKE_CAPTIONS),
                (reference.image, ALIKE_IMAGES),
            )
        ]
        return float(np.mean([[c @ i for i in shard.image[near[1]]] for c in shard.text[near[0]]]))

    for row in np.setdiff1d(np.arange(0, len(gain), 97), grouped):
        slow = mean_cosine(suspect, row) - mean_cosine(reference, row)
        assert gain[row] == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_pairs_that_taught_it_are_found(seed: int) -> None:
    suspect, reference, bad = made(30, 0.6, seed=seed)
    found = traced(suspect, reference)
    drop = ~found.joined()[1]
    assert bad[drop].mean() >= 0.9
    assert drop[bad].mean() >= 0.9
    (first, *_) = found.described() or ()
    assert "kind0" in first.captions_about
    assert "kind1" in first.images_about
    # how often sets with systematic mistakes have one was not measured, so it is not said
    assert str(first).endswith("(at most 4.90% of ordinary clean sets have a group this strong)")
    assert "by these captions" in first.why


@pytest.mark.parametrize("seed", range(5))
def test_two_models_of_clean_pairs_show_nothing(seed: int) -> None:
    suspect, reference, _ = made(0, 0.3, seed=seed)
    assert traced(suspect, reference).joined()[1].all()


def test_what_matches_well_in_the_suspect_is_honest() -> None:
    """A rare kind that the reference did not see: the suspect has learned it, and it fits."""
    suspect, reference, bad = made(30, 0.0)
    text = suspect.text.copy()
    text[bad] = suspect.image[bad]  # learned as well as honest pairs are
    honest = VectorShard(0, text, suspect.image, suspect.image_of, suspect.texts)
    found = traced(honest, reference)
    assert not any(bad[group.rows[0]].mean() > 0.5 for group in found.scores.groups or ())
    assert found.joined()[1].all()


def test_other_pairs_are_refused_and_few_are_said() -> None:
    suspect, reference, _ = made(30, 0.5)
    fewer = VectorShard(0, reference.text[:-1], reference.image[:-1])
    with pytest.raises(InputError, match="the suspect embeds 750 pairs, but the reference 749"):
        traced(suspect, fewer)
    few = VectorShard(0, suspect.text[:150], suspect.image[:150])
    found = traced(few, few)
    assert found.scores.groups == ()
    assert found.scores.notes == ("150 pairs are too few to trace: give at least 200",)


def test_an_unreadable_pair_goes_and_moves_no_group() -> None:
    suspect, reference, bad = made(30, 0.6)
    for shard in (suspect, reference):
        shard.text[5] = shard.image[5] = 0
    drop = ~traced(suspect, reference).joined()[1]
    assert drop[5]
    assert drop[bad].mean() >= 0.9
