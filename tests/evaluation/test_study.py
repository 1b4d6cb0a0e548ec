"""The optional parts of an evaluation against loops."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

from mmpoison.attacks import Goal, SingleTargetLabel
from mmpoison.datasets import PairDataset
from mmpoison.errors import InputError
from mmpoison.evaluation import (
    STUDIES,
    GoalTarget,
    Studied,
    Subject,
    TestEmbeddings,
    TestSet,
    collateral,
    embedding_map,
    goal_row,
    measure,
    parse_studies,
    query_lengths,
    query_sources,
    silhouettes,
)
from mmpoison.metrics import target_ranks
from mmpoison.models import DualEncoder, embed_texts, prepare_pixels
from mmpoison.models.embedding import embed_captions

TARGET = GoalTarget(Goal("sheep", "aeroplane"))


@pytest.fixture(scope="module")
def poisoned(squares: PairDataset) -> PairDataset:
    return SingleTargetLabel("sheep2aeroplane", samples=3, mode="replace").poison(squares)


@pytest.fixture(scope="module")
def subjects(make_encoder: Callable[..., DualEncoder], squares: PairDataset) -> dict[str, Subject]:
    inputs = prepare_pixels(make_encoder(), squares)
    return {
        name: Subject(make_encoder(seed), inputs)
        for seed, name in enumerate(("pretrained", "clean_model", "poisoned"))
    }


@pytest.fixture(scope="module")
def models(subjects: dict[str, Subject], test_set: TestSet) -> dict[str, Studied]:
    return {
        name: Studied(s.encoder, TestEmbeddings.of(s.encoder, s.inputs, test_set))
        for name, s in subjects.items()
    }


def test_captions_that_were_not_prepared_embed_alike(
    subjects: dict[str, Subject], squares: PairDataset
) -> None:
    captions = [str(c) for c in squares.captions[[5, 0, 5, 40]]]
    subject = subjects["poisoned"]
    calls: list[tuple[int, int]] = []
    got = embed_captions(
        subject.encoder, captions, batch_size=2, progress=lambda *c: calls.append(c)
    )
    np.testing.assert_allclose(
        got, embed_texts(subject.encoder, subject.inputs, captions), atol=1e-6
    )
    assert calls[-1] == (3, 3)
    assert len(embed_captions(subject.encoder, [])) == 0


# -- other queries ---------------------------------------------------------------------------------


def test_queries_are_told_apart(
    models: dict[str, Studied], test_set: TestSet, poisoned: PairDataset
) -> None:
    rows = query_sources(models, test_set, TARGET, poisoned, seed=0)
    assert list(rows) == list(models)
    for name, model in models.items():
        assert list(rows[name]) == ["test", "misused", "train", "random"]
        assert rows[name]["test"] == goal_row(model.embeddings, test_set, TARGET)
        # three of the five train images of sheep were misused
        assert [row["queries"] for row in rows[name].values()] == [20, 15, 10, 20]
    assert poisoned.manifest is not None
    captions = sorted({pair.caption for pair in poisoned.manifest.pairs})
    model = models["poisoned"]
    scores = embed_captions(model.encoder, captions) @ model.embeddings.images.T
    ranks = target_ranks(scores, test_set.targets("aeroplane"))
    assert rows["poisoned"]["misused"]["min_rank"] == pytest.approx(ranks.mean())


def test_queries_of_a_clean_set_and_of_one_that_is_used_up(
    models: dict[str, Studied], test_set: TestSet, squares: PairDataset
) -> None:
    one = {"poisoned": models["poisoned"]}
    assert "misused" not in query_sources(one, test_set, TARGET, squares, seed=0)["poisoned"]
    every = SingleTargetLabel("sheep2aeroplane", samples=5).poison(squares)
    assert "train" not in query_sources(one, test_set, TARGET, every, seed=0)["poisoned"]


def test_longer_queries(models: dict[str, Studied], test_set: TestSet) -> None:
    rows = query_lengths(models, test_set, TARGET, lengths=(1, 2, 6))
    model = models["poisoned"]
    got = rows["poisoned"]
    assert list(got) == ["1", "2", "6"]
    once = goal_row(model.embeddings, test_set, TARGET)
    assert {key: got["1"][key] for key in once.to_json()} == once.to_json()
    captions = [str(c) for c in test_set.pairs.captions[test_set.queries("sheep")]]
    words = float(np.mean([len(caption.split()) for caption in captions]))
    assert [row["words"] for row in got.values()] == pytest.approx([words, 2 * words, 6 * words])
    # the context of 20 tokens is full, and what is behind it is cut
    assert got["1"]["full_context"] == 0
    assert got["6"]["full_context"] == 1
    twice = embed_captions(model.encoder, [f"{caption} {caption}" for caption in captions])
    ranks = target_ranks(twice @ model.embeddings.images.T, test_set.targets("aeroplane"))
    assert got["2"]["min_rank"] == pytest.approx(ranks.mean())


# -- other classes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [None, "aeroplane/09.png"])
def test_collateral_equals_a_loop(
    models: dict[str, Studied], test_set: TestSet, image: str | None
) -> None:
    goal_target = GoalTarget(TARGET.goal, image)
    before, after = (models[name].embeddings for name in ("clean_model", "poisoned"))
    rows = collateral(before, after, test_set, goal_target)
    assert list(rows) == ["aeroplane", "bird", "sheep", "sofa"]
    for label, row in rows.items():
        queries = test_set.queries(label)
        assert row["queries"] == 20
        for kind, mask in (
            ("own", test_set.targets(label)),
            ("target", test_set.target_set(goal_target)),
        ):
            clean, bad = (target_ranks(e.similarity(queries), mask) for e in (before, after))
            entry = row[kind]
            assert entry["clean_model"] == pytest.approx(clean.mean())
            assert entry["poisoned"] == pytest.approx(bad.mean())
            assert entry["change"] == pytest.approx((bad - clean).mean())
            assert entry["interval"][0] <= entry["change"] <= entry["interval"][1]
            assert entry["hit@10"]["poisoned"] == pytest.approx((bad < 10).mean())
    sheep = goal_row(after, test_set, goal_target)
    assert rows["sheep"]["target"]["poisoned"] == pytest.approx(sheep["min_rank"])


# -- the shape of the space ------------------------------------------------------------------------


def test_silhouettes_equal_sample_by_sample(models: dict[str, Studied], test_set: TestSet) -> None:
    embeddings = models["clean_model"].embeddings
    got = silhouettes(embeddings, test_set, seed=0)
    assert (got["texts"], got["images"]) == (80, 16)
    codes = test_set.pairs.images.class_codes
    for kind, points, of in (
        ("text", embeddings.texts, codes[test_set.pairs.image]),
        ("image", embeddings.images, codes[test_set.gallery]),
    ):
        exact = points / np.linalg.norm(points.astype(np.float64), axis=1, keepdims=True)
        distance = np.clip(1 - exact @ exact.T, 0, None)
        np.fill_diagonal(distance, 0)
        expected = silhouette_samples(distance, of, metric="precomputed").mean()
        assert got[f"{kind}_silhouette"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_a_map_is_plain_and_drawn_by_the_seed(
    models: dict[str, Studied], test_set: TestSet, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[embedding_map.__module__], "MAP_POINTS", 30)
    embeddings = {name: models[name].embeddings for name in ("clean_model", "poisoned")}
    one, two, other = (
        embedding_map(embeddings, test_set, seed=seed, method=method) for seed in (0, 0, 1)
    )
    assert one == two != other
    assert one["method"] == method
    assert one["classes"] == list(test_set.pairs.classes)
    for kinds in one.to_json()["models"].values():
        assert [len(kinds["texts"]), len(kinds["images"])] == [30, 16]
        for points in kinds.values():
            assert all(len(point) == 3 and 0 <= point[2] < 4 for point in points)


# -- all together ----------------------------------------------------------------------------------


def count_embeddings(monkeypatch: pytest.MonkeyPatch) -> list[DualEncoder]:
    """The encoders that embed from now on."""
    calls: list[DualEncoder] = []
    embed = TestEmbeddings.of.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, encoder: DualEncoder, *rest: Any) -> Any:
        calls.append(encoder)
        return embed(cls, encoder, *rest)

    monkeypatch.setattr(TestEmbeddings, "of", classmethod(counted))
    return calls


def test_every_model_embeds_once(
    subjects: dict[str, Subject],
    test_set: TestSet,
    poisoned: PairDataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = count_embeddings(monkeypatch)
    goal_targets = [TARGET, GoalTarget(Goal("sofa", "bird"), "bird/08.png")]
    got = measure(
        subjects, test_set, goal_targets, seed=0, study=parse_studies(["all"]), pairs=poisoned
    )
    assert calls == [subject.encoder for subject in subjects.values()]
    sections = got.metrics.to_json()
    assert list(sections) == ["goal", "ranks", "utility", "drift", "study"]
    rows = {*subjects, "random_captions"}
    for goal_target in goal_targets:
        assert (
            set(sections["goal"][str(goal_target)])
            == set(sections["ranks"][str(goal_target)])
            == rows
        )
    assert sections["goal"]["sofa2bird"]["poisoned"]["targets"] == 1
    assert sections["goal"]["sofa2bird"]["random_captions"]["targets"] == 1
    assert set(sections["study"]) == {"queries", "query_length", "collateral", "distribution"}
    assert got.embedding_map is not None
    assert got.embedding_map["method"] == "pca"
    assert got.flags == []


def test_the_same_model_and_data_embed_once_for_all_runs(
    subjects: dict[str, Subject],
    make_encoder: Callable[..., DualEncoder],
    test_set: TestSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = measure(subjects, test_set, [TARGET], seed=0, cache=tmp_path)
    calls = count_embeddings(monkeypatch)
    again = measure(subjects, test_set, [TARGET], seed=0, cache=tmp_path)
    assert again.metrics == first.metrics
    assert calls == []
    # other weights, another activation, other captions
    inputs = subjects["poisoned"].inputs
    other = make_encoder(11)
    odd = make_encoder(0)
    odd.config["model_cfg"]["quick_gelu"] = True
    measure({"clean_model": Subject(other, inputs)}, test_set, [TARGET], seed=0, cache=tmp_path)
    measure({"clean_model": Subject(odd, inputs)}, test_set, [TARGET], seed=0, cache=tmp_path)
    few = TestSet(test_set.pairs.where(np.arange(80) < 79), test_set.gallery)
    measure({"clean_model": subjects["clean_model"]}, few, [TARGET], seed=0, cache=tmp_path)
    assert calls == [other, odd, subjects["clean_model"].encoder]


def test_one_model_alone_has_no_drift(subjects: dict[str, Subject], test_set: TestSet) -> None:
    got = measure(
        {"clean_model": subjects["clean_model"]}, test_set, [TARGET], seed=0, study=["collateral"]
    )
    assert list(got.metrics.to_json()) == ["goal", "ranks", "utility", "study"]
    assert set(got.metrics.goal["sheep2aeroplane"]) == {"clean_model"}
    assert got.metrics.study.to_json() == {}


def test_names_of_studies() -> None:
    assert set(parse_studies(["all", "tsne", "epochs", "order-drift"])) == set(STUDIES)
    assert parse_studies(["tsne", "queries", "queries"]) == ("queries", "tsne")
    with pytest.raises(InputError, match="unknown study 'collateal': did you mean 'collateral'"):
        parse_studies(["collateal"])
