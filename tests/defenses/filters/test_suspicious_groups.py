"""The scan for suspected goals: planted goals are found and named, clean data are left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.attacks import SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.defenses.filter_result import FilterResult, PairScores, SuspectedGoal
from mmpoison.defenses.filters.decide import decide
from mmpoison.defenses.filters.suspicious_groups import (
    SuspiciousGroups,
    Views,
    _conflict,
    _evidence,
)
from mmpoison.defenses.filters.suspicious_groups._conflict import (
    FEWEST_ITEMS,
    FOLDS,
    IMAGE_SIDE,
    RIDGE,
    conflict_of_images,
    conflict_of_pairs,
    crowded,
    folds_of,
    image_views,
    predict,
)
from mmpoison.defenses.filters.suspicious_groups._evidence import (
    CAPTION_NEARNESS,
    CONFLICT_WEIGHT,
    CONFLICTING,
    EXPECTED_AT_LEAST,
    FEW,
    LEVELS,
    NEARNESS,
    SuspiciousCluster,
    evidence_of,
    false_alarms_at,
    misplaced,
    unlike,
)
from mmpoison.defenses.filters.suspicious_groups._scan import (
    evidence_of_images,
    evidence_of_pairs,
    joined_clusters,
    joined_score,
    scan,
)
from mmpoison.defenses.filters.suspicious_groups._words import Vocabulary
from mmpoison.errors import InputError
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

    def views(self) -> Views:
        captions, caption_of = np.unique(self.pairs.captions.astype(str), return_inverse=True)
        rows = [int(caption.rsplit(" ", 1)[1]) for caption in captions]
        return Views.of(self.text[rows], self.image, caption_of, self.pairs.image.astype(np.intp))

    def judge(self, seed: int = 0, **options: Any) -> FilterResult:
        method = SuspiciousGroups(**options)
        return decide(method, method.score_views(self.pairs, self.views(), seed=seed), "e")

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


def goals_of(found: FilterResult) -> tuple[SuspectedGoal, ...]:
    assert found.goals is not None
    return found.goals


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
    assert goal.false_alarms <= 0.01
    assert goal.found > 2 * goal.expected
    assert goal.captions_about[0] == "sheep"
    assert goal.images_about[0] == "plane"
    assert str(goal).startswith(
        "possible poisoning: captions about sheep paired with images of plane: "
    )
    bad = one_goal.pairs.poisoned
    assert (~found.keep & bad).sum() >= 0.9 * bad.sum()
    assert (~found.keep & ~bad).sum() <= 0.01 * (~bad).sum()
    # evidence that somebody can look at
    assert all(" sheep " in caption for caption in goal.example_captions)
    assert all(image.startswith("plane/") for image in goal.example_images)


def test_rows_and_verdicts_are_of_the_judged_pairs(one_goal: Made, found: FilterResult) -> None:
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
    first = [*goals_of(result), *result.unproven][:2]
    named = {(goal.captions_about[0], goal.images_about[0]) for goal in first}
    assert named == {("sheep", "plane"), ("cat", "boat")}
    bad = both.pairs.poisoned
    assert (~result.keep & bad).sum() >= 0.9 * bad.sum()


def test_one_image_with_all_the_captions_is_found(clean: Made) -> None:
    target = images_of("plane")[7]
    data = clean.poisoned(captions_on(clean, "sheep", 50), np.full(50, target))
    result = data.judge()
    assert len(goals_of(result)) == 1
    goal = goals_of(result)[0]
    assert goal.images == 1
    assert goal.captions_about[0] == "sheep"
    assert goal.example_images == (str(data.pairs.images.ids[target]),)
    bad = data.pairs.poisoned
    assert (~result.keep & bad).sum() >= 0.8 * bad.sum()
    assert not (~result.keep & ~bad).any()


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


def test_the_manifest_makes_no_difference(one_goal: Made, found: FilterResult) -> None:
    pairs = one_goal.pairs
    blind = PairDataset.build(pairs.images, pairs.captions, pairs.image)
    assert not blind.poisoned.any()
    result = replace(one_goal, pairs=blind).judge()
    assert np.array_equal(result.keep, found.keep)
    assert goals_of(result)[0].score == goals_of(found)[0].score


def test_a_stricter_rate_drops_nothing_more(one_goal: Made, found: FilterResult) -> None:
    strict = one_goal.judge(false_alarms=1e-300)
    assert strict.goals == ()
    assert strict.keep.all()
    assert str(strict.unproven[0]) == str(goals_of(found)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_alarms": 0}, "false_alarms 0 is not between 0 and 1"),
        *(({"clean_loss": share}, "is not a share between 0 and 1") for share in (0.0, 1.0, -0.1)),
    ],
)
def test_values_out_of_range_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SuspiciousGroups(**options)


# -- the parts -------------------------------------------------------------------------------------


def standardised(distances: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.asarray(distances, dtype=np.float64)
    return np.asarray((values - np.median(values)) / max(values.std(), 1e-6))


def naive_prediction(
    x: npt.NDArray[Any], y: npt.NDArray[Any], weight: npt.NDArray[Any], fold: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Ridge regression by scikit-learn, item by item fitted on the items of other folds."""
    from sklearn.linear_model import Ridge

    found = np.zeros(y.shape)
    for item in range(len(x)):
        others = fold != fold[item]
        model = Ridge(alpha=RIDGE).fit(x[others], y[others], sample_weight=weight[others])
        found[item] = model.predict(x[item : item + 1])[0]
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_the_regression_is_ridge_regression_fitted_on_other_folds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    y = rng.normal(size=(40, 3)).astype(np.float32)
    weight = rng.integers(0, 3, 40).astype(np.float32)
    weight[:FEWEST_ITEMS] = 1  # nothing is learned from fewer
    fold = folds_of(40, seed)
    assert np.bincount(fold).tolist() == [40 // FOLDS] * FOLDS
    np.testing.assert_allclose(
        predict(x, y, weight, fold), naive_prediction(x, y, weight, fold), atol=1e-4
    )


def test_nothing_is_learned_from_a_few_items() -> None:
    few = np.ones((FEWEST_ITEMS - 1, 2), dtype=np.float32)
    weight = np.ones(len(few), dtype=np.float32)
    assert not predict(few, few, weight, np.arange(len(few)) % FOLDS).any()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_the_conflict_of_pairs_equals_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, pairs = 30, 80
    views = Views.of(
        rng.normal(size=(50, 6)),
        rng.normal(size=(images, 5)),
        rng.integers(50, size=pairs),
        np.concatenate([np.arange(images), rng.integers(images, size=pairs - images)]),
    )
    weight = (rng.random(pairs) < 0.9).astype(np.float32)
    text = views.text[views.caption_of].astype(np.float64)
    mean, there = np.zeros((images, text.shape[1])), np.zeros(images)
    for pair in range(pairs):
        mean[views.image_of[pair]] += weight[pair] * text[pair]
        there[views.image_of[pair]] += weight[pair]
    fold = folds_of(images, 3)
    predicted = naive_prediction(
        views.image, mean / np.maximum(there, 1)[:, None], (there > 0).astype(float), fold
    )
    once = weight / np.maximum(there, 1)[views.image_of]
    likely = naive_prediction(text, views.image[views.image_of], once, fold[views.image_of])
    said, seen = [], []
    for pair in range(pairs):
        expected = 2.0 * predicted[views.image_of[pair]]
        for other in range(pairs):
            if other != pair and views.image_of[other] == views.image_of[pair]:
                expected = expected + weight[other] * text[other]
        said.append(1 - expected @ text[pair] / np.linalg.norm(expected))
        seen.append(1 - likely[pair] @ views.image[views.image_of[pair]])
    np.testing.assert_allclose(
        conflict_of_pairs(views, weight, 3),
        standardised(said) + IMAGE_SIDE * standardised(seen),
        atol=2e-3,
    )


def test_the_conflict_of_images_asks_other_images_alone(clean: Made) -> None:
    images, item = image_views(clean.views())
    assert len(images) == len(TOPICS) * PER_TOPIC
    assert np.array_equal(item, clean.pairs.image)
    conflict, expected = conflict_of_images(images)
    fold, weight = folds_of(len(images), 0), np.ones(len(images))
    caption = naive_prediction(images.image, images.text, weight, fold)
    np.testing.assert_allclose(expected, caption, atol=1e-3)
    image = naive_prediction(images.text, images.image, weight, fold)
    distances = [
        standardised(1 - (guess * there).sum(axis=1))
        for guess, there in ((caption, images.text), (image, images.image))
    ]
    np.testing.assert_allclose(conflict, sum(distances), atol=5e-3)


def test_crowded_images() -> None:
    assert (
        crowded(np.array([5, 5, 5, 0, 130] + 60 * [5])).tolist()
        == [False] * 4 + [True] + [False] * 60
    )
    assert not crowded(np.full(10, 40)).any()


def test_words_are_those_of_the_group_alone() -> None:
    captions = ["a red bus in the street", "a red car", "a sheep in the street"]
    words = Vocabulary(captions, [1, 1, 8])
    assert words.terms([0, 1])[0] == "red"
    assert "street" not in words.terms([0, 1])
    assert words.terms([]) == ()
    assert Vocabulary(["!", "?"], [1, 1]).terms([0]) == ()


# -- with an encoder -------------------------------------------------------------------------------


def test_scans_with_any_encoder(
    squares: PairDataset,
    make_encoder: Callable[..., DualEncoder],
    make_heads_encoder: Callable[..., DualEncoder],
) -> None:
    train = SingleTargetLabel("sheep2aeroplane", pairs=5).poison(squares).select(split="train")
    plain, heads = make_encoder(3), make_heads_encoder(3)
    defense = SuspiciousGroups()
    of_plain = defense.apply(train, plain, prepare_pixels(plain, train))
    assert of_plain.keep.shape == (len(train),)
    # trunks run here, or ran before: the same features
    from_pixels = defense.apply(train, heads, prepare_pixels(heads, train))
    from_features = defense.apply(train, heads, prepare_features(heads, train))
    np.testing.assert_allclose(from_pixels.scores, from_features.scores, atol=1e-4)
    with pytest.raises(InputError, match="no pair to filter"):
        defense.apply(train.where(np.zeros(len(train), bool)), heads, prepare_pixels(heads, train))


def test_evidence_as_a_slow_loop_over_pairs_has_it(one_goal: Made) -> None:
    seen = one_goal.views()
    conflict = conflict_of_pairs(seen)
    score = evidence_of(seen, conflict).score
    border = np.quantile(conflict, 1 - CONFLICTING)
    odd = np.flatnonzero(conflict > border)
    text = seen.text[seen.caption_of].astype(np.float64)
    image = seen.image[seen.image_of].astype(np.float64)
    spread = 1.4826 * np.median(np.abs(conflict - np.median(conflict)))
    for row in odd[:: len(odd) // 7]:
        both = captions = images = 0.0
        for other in odd:
            if seen.image_of[other] != seen.image_of[row]:
                near = np.exp(NEARNESS * (text[row] @ text[other] - 1))
                seen_near = np.exp(NEARNESS * (image[row] @ image[other] - 1))
                both += near * seen_near
                captions += near / len(odd)
                images += seen_near
        near_captions = np.exp(CAPTION_NEARNESS * (text @ text[row] - 1))
        right = near_captions[conflict <= border].sum()
        vouched = (right + FEW) / (right + near_captions[odd].sum() + FEW)
        expected = (
            np.log((both + FEW) / (EXPECTED_AT_LEAST + captions * images))
            + np.log(vouched)
            + CONFLICT_WEIGHT * (conflict[row] - np.median(conflict)) / spread
        )
        assert score[row] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert score[conflict <= border].max() < score[odd].min()


def test_few_rows_at_a_time_give_the_same(one_goal: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = one_goal.views()
    expected = scan(seen)
    assert [(block.start, block.stop) for block in _evidence.blocks(2500, 10)][-1] == (2048, 2500)
    monkeypatch.setattr(_evidence, "AT_ONCE", 3000)
    monkeypatch.setattr(_conflict, "AT_ONCE", 50)
    steps = [block.stop - block.start for block in _evidence.blocks(2500, 1000)]
    assert max(steps) == 3
    assert sum(steps) == 2500
    found = scan(seen)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
    for one, other in zip(found.clusters, expected.clusters, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.score == pytest.approx(other.score, rel=1e-4)


def test_the_strongest_cluster_is_the_goal(clean: Made, one_goal: Made) -> None:
    clusters = {}
    for name, data in (("clean", clean), ("poisoned", one_goal)):
        seen = data.views()
        clusters[name] = evidence_of(seen, conflict_of_pairs(seen)).clusters
    strongest = clusters["poisoned"][0]
    assert one_goal.pairs.poisoned[strongest.rows].mean() > 0.9
    assert strongest.score > 3 * clusters["clean"][0].score
    ranks = [cluster.score for cluster in clusters["poisoned"]]
    assert ranks == sorted(ranks, reverse=True)


def test_one_crowded_image_is_a_cluster(clean: Made) -> None:
    data = clean.poisoned(captions_on(clean, "sheep", 50), np.full(50, images_of("plane")[7]))
    seen = data.views()
    found = evidence_of(seen, conflict_of_pairs(seen))
    assert data.pairs.poisoned[found.clusters[0].rows].mean() > 0.9


def test_a_goal_too_weak_for_a_p_value_is_named_first_and_goes_with_clean_loss(clean: Made) -> None:
    data = clean.poisoned(captions_on(clean, "sheep", 9), images_of("plane")[:9])
    result = data.judge(clean_loss=0.02)
    bad = data.pairs.poisoned
    first = [*goals_of(result), *result.unproven][0]
    assert (first.captions_about[0], first.images_about[0]) == ("sheep", "plane")
    assert bad[first.rows].mean() > 0.5
    assert (~result.keep).sum() == round(0.02 * len(bad))
    assert (~result.keep & bad).sum() >= 0.7 * bad.sum()
    assert (result.scores[~result.keep] >= result.threshold).all()


def test_clusters_of_both_views_that_share_pairs_are_one() -> None:
    first = [SuspiciousCluster(np.array([1, 2, 3, 4]), 5.0, 4.0, 1.0)]
    second = [
        SuspiciousCluster(np.array([3, 4, 5]), 9.0, 7.0, 0.5),
        SuspiciousCluster(np.array([60, 61]), 6.0),
        SuspiciousCluster(np.array([4, 70, 71, 72]), 1.0),
    ]
    found = joined_clusters(first, second)
    assert [one.rows.tolist() for one in found] == [[1, 2, 3, 4, 5], [60, 61], [4, 70, 71, 72]]
    assert [(one.score, one.found, one.expected) for one in found[:1]] == [(9.0, 7.0, 0.5)]
    assert joined_clusters([], second)[0].score == 9.0


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
    seen = data.views()
    image = evidence_of_images(seen, 0).score
    assert (image[bad] > np.quantile(image[~bad], 0.98)).mean() >= 0.8
    # an image has no say in what is expected of it: his captions once more change nothing
    again = data.poisoned(np.flatnonzero(bad), data.pairs.image[bad])
    louder = evidence_of_images(again.views(), 0).score
    of_image = {int(one): score for one, score in zip(again.pairs.image, louder, strict=True)}
    same = [of_image[int(one)] for one in data.pairs.image]
    np.testing.assert_allclose(same, image, rtol=1e-3, atol=1e-3)
    found = data.judge(clean_loss=0.05)
    first = [*goals_of(found), *found.unproven][0]
    assert (first.captions_about[0], first.images_about[0]) == ("sheep", "plane")
    assert (~found.keep & bad).sum() >= 0.9 * bad.sum()


def test_a_joined_score_is_high_where_either_view_is(one_goal: Made) -> None:
    seen = one_goal.views()
    parts = [part.score for part in (evidence_of_pairs(seen, 0), evidence_of_images(seen, 0))]
    joined = scan(seen).score
    np.testing.assert_allclose(joined, joined_score(*parts))
    for part in parts:
        higher = [(part >= value).mean() for value in part[::97]]
        assert (10 ** -joined[::97] <= np.array(higher) + 1e-9).all()


def test_levels_fall_and_small_groups_are_never_named(clean: Made) -> None:
    scores, shares = zip(*LEVELS, strict=True)
    assert list(scores) == sorted(scores)
    assert list(shares) == sorted(shares, reverse=True)
    assert false_alarms_at(scores[-1] * 10) == pytest.approx(shares[-1])
    few = clean.poisoned(captions_on(clean, "sheep", 4), images_of("plane")[:4])
    for goal in (*goals_of(few.judge(false_alarms=0.99)), *few.judge().unproven):
        assert goal.images >= 5 or goal.false_alarms == 1.0
        if goal.false_alarms == 1.0:
            assert str(goal).endswith("(as strong in 100.00% of clean sets)")


def test_significant_goals_come_first_and_all_by_their_score() -> None:
    def goal(row: int, false_alarms: float, score: float) -> SuspectedGoal:
        return SuspectedGoal(
            (), (), np.array([row]), 9, 5.0, 0.5, false_alarms, score, ("a caption",), ("1.jpg",)
        )

    goals = (goal(0, 0.3, 2.0), goal(1, 1e-3, 7.0), goal(2, 1.0, 9.0), goal(3, 1e-4, 8.0))
    found = decide(SuspiciousGroups(), PairScores(np.zeros(5), goals=goals), "e")
    assert [int(one.rows[0]) for one in goals_of(found)] == [3, 1]
    assert [int(one.rows[0]) for one in found.unproven] == [2, 0]
    assert found.keep.tolist() == [True, False, True, False, True]


def test_a_goal_says_why_and_what_else_it_could_be(found: FilterResult) -> None:
    goal = goals_of(found)[0].to_json()
    assert goal["why"].startswith("about ")
    assert "would be if captions and images were independent" in goal["why"]
    assert len(goal["other_explanations"]) >= 2
    assert {"captions_about", "images_about", "pairs", "images", "false_alarms"} <= set(goal)


def test_misplaced_captions_have_a_meaning_elsewhere(one_goal: Made, clean: Made) -> None:
    seen = one_goal.views()
    poison = np.flatnonzero(one_goal.pairs.poisoned)
    honest = np.flatnonzero(~one_goal.pairs.poisoned)
    assert misplaced(seen, poison, honest) > 0.8
    # captions about sheep on images of sheep are where they belong
    sheep = np.flatnonzero(one_goal.pairs.image < PER_TOPIC)
    assert misplaced(seen, sheep, honest) < 0.1
    # what is only ever with these images names them
    others = honest[~np.isin(honest, captions_on(one_goal, "sheep", 10**6))]
    assert misplaced(seen, poison, others) == 0.0
    assert misplaced(seen, poison, np.empty(0, dtype=np.intp)) == 0.0


def test_odd_wording_of_the_same_thing_is_not_unlike(one_goal: Made) -> None:
    seen = one_goal.views()
    poison = np.flatnonzero(one_goal.pairs.poisoned)
    ours = np.flatnonzero(~one_goal.pairs.poisoned & (one_goal.pairs.image < PER_TOPIC))
    assert unlike(seen, poison) > 0.5
    # the first caption of each image of sheep, beside the other two
    assert unlike(seen, ours[::CAPTIONS]) < 0.15
    # nobody else speaks of these images
    assert unlike(seen, np.arange(len(one_goal.pairs))) == 1.0
