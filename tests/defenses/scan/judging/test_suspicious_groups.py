"""The scan for suspected goals: planted goals are found and named, clean data are left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.defenses.scan.cut.judging import Given, filter_pairs, judge_pairs, result_of
from mmpoison.defenses.scan.cut.result import FilterResult
from mmpoison.defenses.scan.cut.score_filter import SuspiciousGroups
from mmpoison.defenses.scan.groups import describe
from mmpoison.defenses.scan.groups.describe import DescribedGroup, Vocabulary
from mmpoison.defenses.scan.read.pass_runner import read_memory
from mmpoison.defenses.scan.read.vector_shard import AnyVectors, Space, Vectors, VectorShard
from mmpoison.models import DualEncoder, prepare_features, prepare_pixels
from mmpoison.pairs.table import ImageTable

TOPICS = (
    *("sheep", "plane", "river", "bus", "cat", "sofa", "bird", "boat", "dog", "tree"),
    *("lamp", "road", "ship", "bike", "horse", "cow", "train", "chair", "table", "lake"),
)
PER_TOPIC = 40
CAPTIONS = 3


@dataclass
class Made:
    """A made-up data set with a vector for each caption and image."""

    pairs: PairDataset
    text: npt.NDArray[np.float64]
    image: npt.NDArray[np.float64]

    def shard(self) -> VectorShard:
        rows = [int(caption.rsplit(" ", 1)[1]) for caption in self.pairs.captions]
        text, image = self.text[rows], self.image[self.pairs.image]
        return VectorShard(
            0,
            text.astype(np.float16),
            image.astype(np.float16),
            self.pairs.image.astype(np.intp),
            self.pairs.captions,
        )

    def judge(self, seed: int = 0, **options: Any) -> FilterResult:
        method = SuspiciousGroups(**options)
        found = judge_pairs(read_memory(self.shard(), seed), method, "e", Given())
        return result_of(found, method, "e")

    def poisoned(self, captions: npt.NDArray[Any], image: npt.NDArray[Any]) -> Made:
        """Pairs of chosen rows are added once more, with other images."""
        clean = self.pairs
        pairs = PairDataset.build(
            clean.images,
            np.concatenate([clean.captions, clean.captions[captions]]),
            np.concatenate([clean.image, image]),
            np.concatenate([clean.source, clean.source[captions]]),
        )
        return replace(self, pairs=pairs)


def made(seed: int, odd: float = 0.05) -> Made:
    """Topics with a cloud of captions and one of images each; a few captions are on any image at all."""
    rng = np.random.default_rng(seed)
    topics, images = len(TOPICS), len(TOPICS) * PER_TOPIC
    of_image = np.repeat(np.arange(topics), PER_TOPIC)
    image = rng.normal(size=(topics, 32))[of_image] + 0.7 * rng.normal(size=(images, 32))
    of_caption = np.repeat(of_image, CAPTIONS)
    astray = rng.random(len(of_caption)) < odd
    of_caption[astray] = rng.integers(topics, size=int(astray.sum()))
    text = rng.normal(size=(topics, 24))[of_caption]
    text += 0.7 * rng.normal(size=(len(of_caption), 24))
    ids = [f"{TOPICS[topic]}/{number}.jpg" for number, topic in enumerate(of_image)]
    table = ImageTable.build(ids, [None] * images, ["train"] * images, Path("nowhere"))
    captions = [f"the {TOPICS[topic]} is there {row}" for row, topic in enumerate(of_caption)]
    pairs = PairDataset.build(table, captions, np.repeat(np.arange(images), CAPTIONS))
    return Made(pairs, text, image)


def goals_of(found: FilterResult) -> tuple[DescribedGroup, ...]:
    assert found.goals is not None
    return found.goals


def groups_of(found: FilterResult) -> tuple[DescribedGroup, ...]:
    assert found.groups is not None
    return found.groups


@pytest.fixture(scope="module")
def clean() -> Made:
    return made(0)


def captions_on(data: Made, topic: str, count: int) -> npt.NDArray[np.intp]:
    about = np.array([f" {topic} " in caption for caption in data.pairs.captions])
    return np.flatnonzero(about)[:count]


def images_of(topic: str) -> npt.NDArray[np.intp]:
    start = TOPICS.index(topic) * PER_TOPIC
    return np.arange(start, start + PER_TOPIC)


@pytest.fixture(scope="module")
def one_goal(clean: Made) -> Made:
    """Forty captions about sheep on the images of planes, one each."""
    return clean.poisoned(captions_on(clean, "sheep", PER_TOPIC), images_of("plane"))


@pytest.fixture(scope="module")
def found(one_goal: Made) -> FilterResult:
    return one_goal.judge()


def test_a_planted_goal_is_found_named_and_dropped(one_goal: Made, found: FilterResult) -> None:
    assert len(goals_of(found)) == 1
    goal = goals_of(found)[0]
    assert goal.group.false_alarms <= 0.01
    assert goal.group.conflicting > 1.5 * goal.group.expected
    assert goal.captions_about[0] == "sheep"
    assert goal.images_about[0] == "plane"
    assert str(goal).startswith("captions about sheep paired with images of plane")
    bad = one_goal.pairs.poisoned
    assert (~found.keep & bad).sum() >= 0.9 * bad.sum()
    assert (~found.keep & ~bad).sum() <= 0.01 * (~bad).sum()
    # evidence that somebody can look at
    assert all(" sheep " in caption for caption in goal.captions)
    why = goal.to_json()
    assert re.match(
        r"at its centre, \d+ of \d+ images conflict with the captions of similar images", why["why"]
    )
    assert len(why["other_explanations"]) >= 2
    assert {"captions_about", "images_about", "pairs", "images", "false_alarms"} <= set(why)
    assert found.keep.shape == (len(one_goal.pairs),)
    assert np.array_equal(np.flatnonzero(~found.keep), np.unique(goals_of(found)[0].rows))


@pytest.mark.parametrize("seed", range(4))
def test_clean_data_are_left_alone(seed: int) -> None:
    data = made(seed + 10, odd=0.1)
    result = data.judge(seed)
    assert result.goals == ()
    assert result.keep.all()


def test_two_goals_are_told_apart(clean: Made) -> None:
    one = clean.poisoned(captions_on(clean, "sheep", 20), images_of("plane")[:20])
    both = one.poisoned(captions_on(one, "cat", 20), images_of("boat")[:20])
    result = both.judge(clean_loss=0.04)
    first = groups_of(result)[:2]
    named = {(goal.captions_about[0], goal.images_about[0]) for goal in first}
    assert named == {("sheep", "plane"), ("cat", "boat")}
    bad = both.pairs.poisoned
    assert (~result.keep & bad).sum() >= 0.7 * bad.sum()


def test_one_image_with_all_the_captions_is_found(clean: Made) -> None:
    target = images_of("plane")[7]
    data = clean.poisoned(captions_on(clean, "sheep", 50), np.full(50, target))
    result = data.judge(false_alarms=0.1)
    assert len(goals_of(result)) == 1
    goal = goals_of(result)[0]
    assert goal.group.crowded
    assert goal.captions_about[0] == "sheep"
    bad = data.pairs.poisoned
    assert (~result.keep & bad).sum() >= 0.8 * bad.sum()
    assert (~result.keep & ~bad).sum() <= 3


def test_a_popular_image_with_fitting_captions_is_left_alone(clean: Made) -> None:
    target = images_of("plane")[7]
    data = clean.poisoned(captions_on(clean, "plane", 50), np.full(50, target))
    assert data.judge().goals == ()


def test_a_name_that_the_text_encoder_does_not_know_is_no_goal(clean: Made) -> None:
    # every plane is also called something that lies far from all other captions and is nowhere else
    rng = np.random.default_rng(5)
    strange = rng.normal(size=24) * 2
    rows = captions_on(clean, "plane", PER_TOPIC)
    captions = clean.pairs.captions.copy()
    text = clean.text.copy()
    for row in rows:
        number = int(captions[row].rsplit(" ", 1)[1])
        captions[row] = f"a chaparral {number}"
        text[number] = strange + 0.05 * rng.normal(size=24)
    pairs = PairDataset.build(clean.pairs.images, captions, clean.pairs.image)
    assert Made(pairs, text, clean.image).judge().goals == ()


def test_a_stricter_rate_drops_nothing_more(one_goal: Made, found: FilterResult) -> None:
    strict = one_goal.judge(false_alarms=1e-300)
    assert strict.goals == ()
    assert strict.keep.all()
    assert str(groups_of(strict)[0]) == str(goals_of(found)[0])


def test_words_are_those_of_the_group_alone() -> None:
    captions = ["a red bus in the street", "a red car", "a sheep in the street"]
    words = Vocabulary(captions, [1, 1, 8])
    assert words.terms([0, 1])[0] == "red"
    assert "street" not in words.terms([0, 1])
    assert words.terms([]) == ()
    assert Vocabulary(["!", "?"], [1, 1]).terms([0]) == ()


def test_words_do_not_depend_on_the_last_bits(
    one_goal: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They differ by processor, even for equal vectors in two places of a block."""
    reduce, random = Space.reduce, np.random.default_rng(0)

    def on_another_processor(space: Space, vectors: AnyVectors) -> Vectors:
        reduced = reduce(space, vectors)
        return (reduced * (1 + 1e-6 * random.standard_normal(reduced.shape))).astype(np.float32)

    # all words, the number of each caption among them
    monkeypatch.setattr(describe, "TERMS", 99)
    here = groups_of(one_goal.judge())
    monkeypatch.setattr(Space, "reduce", on_another_processor)
    there = groups_of(one_goal.judge())
    assert [group.images_about for group in here] == [group.images_about for group in there]


# -- with an encoder -------------------------------------------------------------------------------


def test_scans_with_any_encoder(
    squares: PairDataset, make_heads_encoder: Callable[..., DualEncoder]
) -> None:
    train = SingleTargetLabel("sheep2aeroplane", pairs=5).poison(squares).select(split="train")
    heads, defense = make_heads_encoder(3), SuspiciousGroups()
    # trunks run here, or ran before: the same features
    from_pixels = filter_pairs(train, heads, defense, inputs=prepare_pixels(heads, train))
    from_features = filter_pairs(train, heads, defense, inputs=prepare_features(heads, train))
    np.testing.assert_allclose(from_pixels.scores, from_features.scores, atol=1e-4)


def test_a_goal_too_weak_for_a_p_value_is_named_first_and_goes_with_clean_loss(clean: Made) -> None:
    data = clean.poisoned(captions_on(clean, "sheep", 9), images_of("plane")[:9])
    result = data.judge(clean_loss=0.02)
    bad = data.pairs.poisoned
    first = groups_of(result)[0]
    assert (first.captions_about[0], first.images_about[0]) == ("sheep", "plane")
    assert bad[first.rows].mean() > 0.5
    assert 0 <= round(0.02 * len(bad)) - (~result.keep).sum() <= CAPTIONS
    assert (~result.keep & bad).sum() >= 0.7 * bad.sum()
    assert (result.scores[~result.keep] > result.threshold).all()


def own_images(clean: Made, count: int) -> Made:
    """Images of planes that carry the captions of one image of sheep each, and nothing else."""
    sheep, plane = images_of("sheep")[:count], images_of("plane")[:count]
    honest = clean.pairs.where(~np.isin(clean.pairs.image, plane))
    rows = np.flatnonzero(np.isin(clean.pairs.image, sheep))
    target = plane[np.searchsorted(sheep, clean.pairs.image[rows])]
    pairs = PairDataset.build(
        honest.images,
        np.concatenate([honest.captions, clean.pairs.captions[rows]]),
        np.concatenate([honest.image, target]),
        np.concatenate([honest.source, clean.pairs.source[rows]]),
    )
    return replace(clean, pairs=pairs)


def test_an_attacker_who_posts_his_own_images_is_found(clean: Made) -> None:
    data = own_images(clean, 15)
    bad = data.pairs.poisoned
    found = data.judge(clean_loss=0.05)
    first = groups_of(found)[0]
    assert (first.captions_about[0], first.images_about[0]) == ("sheep", "plane")
    assert (~found.keep & bad).sum() >= 0.9 * bad.sum()
