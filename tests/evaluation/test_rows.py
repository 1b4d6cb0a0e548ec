"""The rows of `metrics.json` against loops over queries and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.attacks.conftest import table
from tests.evaluation.conftest import random_embeddings

from mmpoison.attacks import Goal, SingleTargetLabel
from mmpoison.datasets import ImageTable, PairDataset, load_pairs
from mmpoison.errors import InputError
from mmpoison.evaluation import (
    GoalTarget,
    TestEmbeddings,
    TestSet,
    class_retrieval,
    collapse_warning,
    drift_between,
    goal_row,
    rows,
    utility_row,
)
from mmpoison.models import DualEncoder, embed_images, embed_texts, prepare_pixels

GOAL = Goal("sheep", "aeroplane")
TARGET = GoalTarget(GOAL)
M_KEYS = ["hit@1", "hit@5", "hit@10", "hit@20", "hit@30", "hit@50"]


@pytest.fixture(scope="module")
def embeddings(test_set: TestSet) -> TestEmbeddings:
    return random_embeddings(test_set)


def naive_ranks(embeddings: TestEmbeddings, test: TestSet, queries: Any, target: str) -> list[int]:
    """Gallery images that are no target and score at least as high as the best target."""
    table = test.pairs.images
    ranks: list[int] = []
    for query in queries:
        scores = {
            int(image): float(embeddings.texts[query] @ embeddings.images[position])
            for position, image in enumerate(test.gallery)
        }
        best = max(score for image, score in scores.items() if table.label(image) == target)
        ranks.append(
            sum(score >= best and table.label(image) != target for image, score in scores.items())
        )
    return ranks


# -- the test part ---------------------------------------------------------------------------------


def test_the_test_part(squares: PairDataset, test_set: TestSet) -> None:
    assert len(test_set.gallery) == 16
    assert len(test_set.pairs) == 80
    table = squares.images
    assert {table.split_codes[i] for i in test_set.gallery} == {2}
    queries = test_set.queries("sheep")
    assert len(queries) == 20
    assert {table.label(test_set.pairs.image[row]) for row in queries} == {"sheep"}
    assert sorted([*queries, *test_set.other_queries("sheep")]) == list(range(80))
    assert int(test_set.targets("aeroplane").sum()) == 4
    for row, position in enumerate(test_set.caption_image):
        assert test_set.gallery[position] == test_set.pairs.image[row]


def test_poison_does_not_change_it(squares: PairDataset, test_set: TestSet) -> None:
    poisoned = SingleTargetLabel("sheep2aeroplane", samples=5, mode="replace").poison(squares)
    other = TestSet.of(poisoned)
    assert list(other.gallery) == list(test_set.gallery)
    assert list(other.pairs.captions) == list(test_set.pairs.captions)


def test_nothing_to_measure() -> None:
    with pytest.raises(InputError, match="the data have no test images with captions"):
        TestSet.of(table(("sheep", "test", 0)))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [("sheep", "train", 1), ("boat", "test", 1), ("aeroplane", "test", 1)],
            "class 'sheep' has no test caption to search with",
        ),
        (
            [("sheep", "test", 1), ("aeroplane", "train", 1)],
            "class 'aeroplane' has no test image, so it cannot be a target",
        ),
        ([("sheep", "test", 1)], "unknown class 'aeroplane'"),
        ([("aeroplane", "test", 1)], "unknown class 'sheep'"),
    ],
)
def test_a_goal_that_cannot_be_measured(rows: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        TestSet.of(table(*rows)).check_goal(GOAL)


def test_a_test_image_without_captions_is_in_the_gallery(
    encoder: DualEncoder,
    square_folder: Path,
    squares: PairDataset,
    write_lines: Callable[..., Path],
) -> None:
    """The gallery is all test images (protocol); one that nobody described must not stop the run."""
    lines = [
        {**line, "captions": []} if line["image"] == "aeroplane/09.png" else line
        for line in squares.lines()
    ]
    pairs = load_pairs(write_lines(*lines), images=square_folder)
    test = TestSet.of(pairs)
    assert len(test.gallery) == 16
    inputs = prepare_pixels(encoder, test.pairs, images=test.gallery)
    embeddings = TestEmbeddings.of(encoder, inputs, test)
    assert goal_row(embeddings, test, TARGET)["targets"] == 4
    assert set(utility_row(embeddings, test).to_json()) == {"image_retrieval", "text_retrieval"}


def test_embedding_the_test_part(encoder: DualEncoder, test_set: TestSet) -> None:
    captions = np.asarray(test_set.pairs.captions, dtype=object).copy()
    captions[:30] = captions[0]
    test_set = replace(test_set, pairs=replace(test_set.pairs, captions=captions))
    inputs = prepare_pixels(encoder, test_set.pairs)
    calls: list[tuple[int, int]] = []
    got = TestEmbeddings.of(encoder, inputs, test_set, lambda *call: calls.append(call))
    np.testing.assert_array_equal(got.images, embed_images(encoder, inputs, test_set.gallery))
    np.testing.assert_array_equal(got.texts, embed_texts(encoder, inputs, captions))
    # 16 images and 80 captions, of which equal ones are counted once
    assert calls[-1] == (67, 67)
    assert {total for _, total in calls} == {67}
    queries = np.array([3, 8], dtype=np.int32)
    np.testing.assert_allclose(got.similarity(queries), got.texts[queries] @ got.images.T)


# -- rows ------------------------------------------------------------------------------------------


def test_goal_row_equals_a_loop(embeddings: TestEmbeddings, test_set: TestSet) -> None:
    row = goal_row(embeddings, test_set, TARGET)
    ranks = np.array(naive_ranks(embeddings, test_set, test_set.queries("sheep"), "aeroplane"))
    assert 0 < (ranks == 0).mean() < 1
    assert row.to_json() == {
        **{key: pytest.approx((ranks < int(key.removeprefix("hit@"))).mean()) for key in M_KEYS},
        "min_rank": pytest.approx(ranks.mean()),
        "queries": 20,
        "gallery": 16,
        "targets": 4,
        "ties": 0,
    }
    assert list(row.to_json()) == [*M_KEYS, "min_rank", "queries", "gallery", "targets", "ties"]


@pytest.mark.parametrize("seed", range(5))
def test_random_captions_are_as_many_and_of_other_classes(
    embeddings: TestEmbeddings, test_set: TestSet, seed: int
) -> None:
    queries = rows.random_queries(test_set, GOAL, seed)
    row = rows.row_of_queries(embeddings, test_set, queries, GoalTarget(GOAL))
    assert row["queries"] == len(set(queries.tolist())) == 20
    assert not set(queries.tolist()) & set(test_set.queries("sheep").tolist())
    ranks = naive_ranks(embeddings, test_set, queries, "aeroplane")
    assert row["min_rank"] == pytest.approx(np.mean(ranks))
    # drawn by the seed
    assert rows.random_queries(test_set, GOAL, seed).tolist() == queries.tolist()
    assert rows.random_queries(test_set, GOAL, seed + 1).tolist() != queries.tolist()


def test_one_target_image_is_the_whole_target_set(
    embeddings: TestEmbeddings, test_set: TestSet
) -> None:
    image = str(test_set.pairs.images.ids[test_set.gallery[2]])
    goal_target = GoalTarget(GOAL, image)
    row = goal_row(embeddings, test_set, goal_target)
    scores = embeddings.texts[test_set.queries("sheep")] @ embeddings.images.T
    ranks = [sum(float(s) >= float(line[2]) for s in line) - 1 for line in scores]
    assert row["targets"] == 1
    assert row["min_rank"] == pytest.approx(np.mean(ranks))
    assert row["min_rank"] > goal_row(embeddings, test_set, TARGET)["min_rank"]
    others = rows.random_queries(test_set, GOAL, 0)
    random = rows.row_of_queries(embeddings, test_set, others, goal_target)
    assert (random["targets"], random["queries"]) == (1, 20)


def test_quantiles_and_intervals_of_the_ranks(
    embeddings: TestEmbeddings, test_set: TestSet
) -> None:
    queries = test_set.queries("sheep")
    ranks = np.array(naive_ranks(embeddings, test_set, queries, "aeroplane"))
    row = rows.ranks_row(ranks, test_set.pairs.image[queries])
    assert row["median"] == np.median(ranks)
    for name, value in row["quantiles"].items():
        assert value == pytest.approx(np.quantile(ranks, float(name)))
    assert row["clusters"] == 4
    measured = goal_row(embeddings, test_set, TARGET)
    for name, (low, high) in row["interval"].items():
        assert low <= measured[name] <= high
        assert high > low
    # with one image there is nothing to tell its captions apart from
    assert "interval" not in rows.ranks_row(ranks[:5], test_set.pairs.image[queries[:5]]).to_json()


def test_random_captions_are_all_there_are_where_there_are_fewer() -> None:
    test = TestSet.of(table(("sheep", "test", 5), ("aeroplane", "test", 2)))
    assert len(rows.random_queries(test, GOAL, 0)) == 2


def test_utility_equals_a_loop(embeddings: TestEmbeddings, test_set: TestSet) -> None:
    scores = embeddings.texts @ embeddings.images.T
    own = test_set.caption_image
    image_ranks = [
        sum(scores[t, g] >= scores[t, own[t]] for g in range(16) if g != own[t]) for t in range(80)
    ]
    text_ranks: list[int] = []
    for g in range(16):
        mine = [t for t in range(80) if own[t] == g]
        best = max(scores[t, g] for t in mine)
        text_ranks.append(sum(scores[t, g] >= best for t in range(80) if t not in mine))
    expected = {
        name: {f"hit@{k}": pytest.approx(np.mean(np.array(ranks) < k)) for k in (1, 5, 10)}
        for name, ranks in (("image_retrieval", image_ranks), ("text_retrieval", text_ranks))
    }
    assert utility_row(embeddings, test_set).to_json() == expected


def test_utility_where_images_share_a_caption() -> None:
    """Two photos with the same sentence: no model can tell which is meant."""
    images = ImageTable.build(
        [f"{n}.jpg" for n in range(3)], ["beach"] * 3, ["test"] * 3, Path("nowhere")
    )
    pairs = PairDataset.build(images, ["a beach", "waves", "a beach", "sand"], [0, 1, 1, 2])
    test = TestSet.of(pairs)
    assert rows.texts_repeat(test)
    directions = np.eye(4, dtype=np.float32)
    texts = directions[[0, 1, 0, 2]]
    own = np.stack([directions[0], directions[0] + 0.1 * directions[1], directions[2]])
    embedded = TestEmbeddings(own, texts)
    strict = utility_row(embedded, test)
    fair = utility_row(embedded, test, equal_texts=True)
    # "a beach" of image 1 finds image 0 first, which carries the same words
    assert strict["image_retrieval"]["hit@1"] == 0.75
    assert fair["image_retrieval"]["hit@1"] == 1.0
    # both photos find "a beach" twice, and strictly one of them is the other photo's
    assert strict["text_retrieval"]["hit@1"] == pytest.approx(1 / 3)
    assert fair["text_retrieval"]["hit@1"] == 1.0


def test_the_two_readings_are_one_where_no_caption_repeats(
    embeddings: TestEmbeddings, test_set: TestSet
) -> None:
    assert not rows.texts_repeat(test_set)
    assert utility_row(embeddings, test_set) == utility_row(embeddings, test_set, equal_texts=True)


def test_class_retrieval_equals_a_loop(embeddings: TestEmbeddings, test_set: TestSet) -> None:
    got = class_retrieval(embeddings, test_set)
    table = test_set.pairs.images
    for label in test_set.pairs.classes:
        first = [
            table.label(test_set.gallery[np.argmax(embeddings.images @ embeddings.texts[row])])
            == label
            for row in test_set.queries(label)
        ]
        assert got[label] == pytest.approx(np.mean(first))


def test_class_retrieval_leaves_out_classes_without_test_captions() -> None:
    test = TestSet.of(table(("sheep", "test", 2), ("boat", "test", 0), ("sofa", "train", 2)))
    assert set(class_retrieval(random_embeddings(test), test)) == {"sheep"}


# -- what can fool ---------------------------------------------------------------------------------


def test_a_collapsed_model_is_flagged_and_looks_like_a_failure(test_set: TestSet) -> None:
    one = np.full((1, 8), 8**-0.5, dtype=np.float32)
    collapsed = TestEmbeddings(
        np.repeat(one, len(test_set.gallery), 0), np.repeat(one, len(test_set.pairs), 0)
    )
    warning = collapse_warning(collapsed, test_set, "broken")
    assert warning is not None
    assert warning.startswith("the model 'broken' has collapsed: for 100% of the captions")
    row = goal_row(collapsed, test_set, TARGET)
    assert row["hit@10"] == 0
    assert row["min_rank"] == 12
    assert row["ties"] == row["queries"]


def test_only_the_images_collapsed(test_set: TestSet, embeddings: TestEmbeddings) -> None:
    images = np.repeat(embeddings.images[:1], len(test_set.gallery), 0)
    assert collapse_warning(TestEmbeddings(images, embeddings.texts), test_set, "x") is not None


def test_a_sound_model_is_not_flagged(test_set: TestSet, embeddings: TestEmbeddings) -> None:
    assert collapse_warning(embeddings, test_set, "x") is None


# -- drift -----------------------------------------------------------------------------------------


def test_drift_equals_a_loop(test_set: TestSet, embeddings: TestEmbeddings) -> None:
    other = random_embeddings(test_set, 1)
    got = drift_between(embeddings, other)
    for name, before, after in (
        ("text", embeddings.texts, other.texts),
        ("image", embeddings.images, other.images),
    ):
        expected = np.mean([1 - float(a @ b) for a, b in zip(before, after, strict=True)])
        assert got[name] == pytest.approx(expected, abs=1e-6)
