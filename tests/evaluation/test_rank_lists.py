"""Rank lists: drawn by the seed, in the order of the similarities, with pictures inside."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.conftest import random_embeddings

from mmpoison.attacks import Goal
from mmpoison.datasets import PairDataset
from mmpoison.evaluation import GoalTarget, TestEmbeddings, TestSet, rank_lists, thumbnail_address

TARGET = GoalTarget(Goal("sheep", "aeroplane"))


@pytest.fixture(scope="module")
def models(test_set: TestSet) -> dict[str, TestEmbeddings]:
    return {
        name: random_embeddings(test_set, seed)
        for seed, name in enumerate(("clean_model", "poisoned"))
    }


@pytest.fixture(scope="module")
def lists(models: dict[str, TestEmbeddings], test_set: TestSet) -> dict[str, Any]:
    return rank_lists(models, test_set, [TARGET], seed=0).to_json()


def test_structure(lists: dict[str, Any], squares: PairDataset) -> None:
    assert json.loads(json.dumps(lists)) == lists
    assert lists["goals"] == ["sheep2aeroplane"]
    assert len(lists["queries"]) == 4
    label = dict(zip(squares.images.ids, range(len(squares.images)), strict=True))
    for query in lists["queries"]:
        assert set(query) == {"goal", "caption", "image", "models", "best_target_rank"}
        assert query["goal"] == "sheep2aeroplane"
        assert squares.images.label(label[query["image"]]) == "sheep"
        assert (query["image"], query["caption"]) in set(
            zip(squares.images.ids[squares.image], squares.captions, strict=True)
        )
        assert list(query["models"]) == ["clean_model", "poisoned"]
        for shown in query["models"].values():
            assert len(shown) == 10
            scores = [entry["similarity"] for entry in shown]
            assert scores == sorted(scores, reverse=True)
            for entry in shown:
                assert entry["label"] == squares.images.label(label[entry["image"]])
                assert entry["target"] == (entry["label"] == "aeroplane")


def test_best_target_rank_is_where_the_first_target_stands(lists: dict[str, Any]) -> None:
    for query in lists["queries"]:
        for name, shown in query["models"].items():
            targets = [n for n, entry in enumerate(shown) if entry["target"]]
            if targets:
                assert query["best_target_rank"][name] == targets[0]
            else:
                assert query["best_target_rank"][name] >= len(shown)


def test_several_goals_and_one_target_image(
    models: dict[str, TestEmbeddings], test_set: TestSet
) -> None:
    goal_targets = [
        GoalTarget(Goal("sofa", "bird")),
        GoalTarget(Goal("sheep", "aeroplane"), "aeroplane/09.png"),
    ]
    lists = rank_lists(models, test_set, goal_targets, seed=0, captions=2, top=16)
    assert lists["goals"] == ["sofa2bird", "sheep2aeroplane"]
    assert [query["goal"] for query in lists["queries"]] == ["sofa2bird"] * 2 + [
        "sheep2aeroplane"
    ] * 2
    for query in lists["queries"][2:]:
        for entries in query["models"].values():
            assert [e["image"] for e in entries if e["target"]] == ["aeroplane/09.png"]


def test_the_captions_are_of_different_images_and_drawn_by_the_seed(
    models: dict[str, TestEmbeddings], test_set: TestSet
) -> None:
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        queries = rank_lists(models, test_set, [TARGET], seed=seed, captions=3)["queries"]
        assert len({query["image"] for query in queries}) == 3
        drawn.append([query["caption"] for query in queries])
    assert drawn[0] == drawn[1]
    assert len({tuple(captions) for captions in drawn}) > 2


def test_every_picture_is_inside(lists: dict[str, Any]) -> None:
    shown = {query["image"] for query in lists["queries"]}
    for query in lists["queries"]:
        for entries in query["models"].values():
            shown.update(entry["image"] for entry in entries)
    assert set(lists["thumbnails"]) == shown
    for address in lists["thumbnails"].values():
        head, _, data = address.partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            assert picture.format == "JPEG"
            assert picture.width == picture.height <= 96


def test_a_thumbnail_shows_its_image(squares: PairDataset) -> None:
    address = thumbnail_address(squares.root, "bird/03.png", 24)
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        middle = np.asarray(picture.convert("RGB"))[10:14, 10:14].mean(axis=(0, 1))
    # birds are red squares
    np.testing.assert_allclose(middle, (220, 60, 50), atol=25)


def test_confusing_images_are_of_other_classes(
    lists: dict[str, Any], models: dict[str, TestEmbeddings], test_set: TestSet
) -> None:
    found = lists["confusing"]["sheep2aeroplane"]
    assert all(entry["label"] != "aeroplane" for entry in found)
    assert all(entry["image"] in lists["thumbnails"] for entry in found)
    scores = models["clean_model"].similarity(test_set.queries("aeroplane")).mean(axis=0)
    others = scores[~test_set.targets("aeroplane")]
    assert [e["similarity"] for e in found] == pytest.approx(sorted(others)[::-1][:8], abs=1e-4)
    ids = test_set.pairs.images.ids
    for entry in found:
        of_image = test_set.pairs.captions[ids[test_set.pairs.image] == entry["image"]]
        assert entry["captions"] == list(of_image[:2])
