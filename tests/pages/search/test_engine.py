"""Queries against independent arithmetic, and what is made ready when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import refusal

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, embed_images, load_encoder, prepare_pixels
from mmpoison.models.embedding import embed_captions
from mmpoison.pages.search import Collection, Engine, Job, Library, Source

QUERY = "a sheep in the sun"


def similarities(encoder: DualEncoder, pairs: PairDataset, images: np.ndarray) -> np.ndarray:
    inputs = prepare_pixels(encoder, pairs)
    return np.asarray(embed_images(encoder, inputs, images) @ embed_captions(encoder, [QUERY])[0])


def test_images_for_a_text(
    engine: Engine, poisoned: Collection, checkpoint: Path, judge_checkpoint: Path
) -> None:
    answer = engine.images_for(poisoned, "test", QUERY, shown=6, target="class:aeroplane")
    assert list(answer.columns) == ["tiny", "judge"]
    assert answer.waiting == {}
    images = poisoned.gallery("test")
    orders = {}
    for name, path in (("tiny", checkpoint), ("judge", judge_checkpoint)):
        scores = similarities(load_encoder(path), poisoned.pairs, images)
        order = images[np.argsort(-scores)]
        orders[name] = order.tolist()
        column = answer.columns[name]
        assert [hit.item for hit in column.hits] == order[:6].tolist()
        assert [hit.similarity for hit in column.hits] == pytest.approx(
            np.sort(scores)[::-1][:6], abs=1e-4
        )
        target = poisoned.targets("class:aeroplane")[order]
        assert column.best_target == int(np.argmax(target))
        assert [hit.target for hit in column.hits] == target[:6].tolist()
    for hit in answer.columns["judge"].hits:
        assert hit.was == orders["tiny"].index(hit.item)
    new = set(orders["judge"][:6]) - set(orders["tiny"][:6])
    assert answer.columns["judge"].new == len(new)


def test_captions_for_an_image_of_the_set_and_for_the_same_as_a_file(
    fresh_engine: Engine, poisoned: Collection, checkpoint: Path
) -> None:
    image = int(poisoned.gallery("test")[3])
    first = fresh_engine.captions_for(poisoned, "test", image, shown=5, original="sheep")
    assert isinstance(first.waiting["tiny"], Job)
    fresh_engine.library.wait()
    answer = fresh_engine.captions_for(poisoned, "test", image, shown=5, original="sheep")
    captions = fresh_engine.library.captions["poisoned", "test"]
    encoder = load_encoder(checkpoint)
    inputs = prepare_pixels(encoder, poisoned.pairs)
    scores = (
        embed_captions(encoder, captions.texts.tolist())
        @ embed_images(encoder, inputs, np.array([image]))[0]
    )
    hits = answer.columns["tiny"].hits
    assert [hit.item for hit in hits] == np.argsort(-scores)[:5].tolist()
    sheep = poisoned.pairs.images.class_code("sheep")
    assert [hit.target for hit in hits] == [captions.class_codes[h.item] == sheep for h in hits]
    data = (poisoned.pairs.root / poisoned.pairs.images.ids[image]).read_bytes()
    assert fresh_engine.captions_for(poisoned, "test", data, shown=5, original="sheep") == answer


def test_distances_of_a_pair(engine: Engine, poisoned: Collection, checkpoint: Path) -> None:
    assert poisoned.manifest is not None
    ids = list(poisoned.pairs.images.ids)
    image = ids.index(poisoned.manifest.pairs[0].poisoned_image)
    facts, fault = engine.pair_facts(poisoned, image)
    assert fault == ""
    assert [fact.caption for fact in facts] == poisoned.captions(image)
    encoder = load_encoder(checkpoint)
    inputs = prepare_pixels(encoder, poisoned.pairs)
    picture = embed_images(encoder, inputs, np.array([image]))[0]
    for fact in facts:
        assert list(fact.distance) == ["tiny", "judge"]
        expected = 1 - embed_captions(encoder, [fact.caption.text])[0] @ picture
        assert fact.distance["tiny"] == pytest.approx(expected, abs=1e-4)


# -- the library -----------------------------------------------------------------------------------


def test_the_first_model_answers_before_the_second_is_there(
    make_library: Callable[..., Library], squares: PairDataset, checkpoint: Path
) -> None:
    gate = threading.Event()

    def slow() -> DualEncoder:
        gate.wait(60)
        return load_encoder(checkpoint)

    squares_of = Collection("squares", squares)
    library = make_library(
        {"fast": lambda: load_encoder(checkpoint), "slow": slow}, {"squares": lambda: squares_of}
    )
    engine = Engine(library)
    try:
        with library._changed:
            assert library._changed.wait_for(
                lambda: library.jobs["model", "slow"].state == "working", 60
            )
        answer = engine.images_for(squares_of, "test", QUERY, shown=3)
        assert list(answer.columns) == ["fast"]
        assert answer.waiting["slow"].state == "working"
    finally:
        gate.set()
    library.wait()
    assert list(engine.images_for(squares_of, "test", QUERY, shown=3).columns) == ["fast", "slow"]


def test_embeddings_are_kept_for_the_next_session(
    one_model: Callable[[Collection], Engine],
    own_square_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmpoison.models import embedding

    calls = []
    real = embedding.embed_images

    def counted(*args: object, **options: object) -> object:
        calls.append(1)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(embedding, "embed_images", counted)

    def session() -> Engine:
        return one_model(Collection("squares", load_pairs(own_square_folder)))

    def answer(engine: Engine) -> object:
        return engine.images_for(engine.library.collections["squares"], "test", QUERY, shown=9)

    first, second = session(), session()
    assert len(calls) == 1
    assert answer(first) == answer(second)
    # another picture under an old name
    other = next((own_square_folder / "sheep").glob("11.png"))
    other.write_bytes((own_square_folder / "sofa" / "11.png").read_bytes())
    assert answer(session()) != answer(first)
    assert len(calls) == 2


def test_broken_images_are_left_out_and_counted(
    one_model: Callable[[Collection], Engine], own_square_folder: Path, cut_jpeg: bytes
) -> None:
    (own_square_folder / "sheep" / "08.png").write_bytes(cut_jpeg)
    (own_square_folder / "sheep" / "09.png").unlink()
    collection = Collection("squares", load_pairs(own_square_folder))
    engine = one_model(collection)
    answer = engine.images_for(collection, "test", QUERY, shown=20)
    assert answer.columns["tiny"].size == 14
    (note,) = engine.library.notes(collection, "test")
    assert note.startswith("2 of 16 images cannot be read")
    ids = list(collection.pairs.images.ids)
    facts, fault = engine.pair_facts(collection, ids.index("sheep/08.png"))
    assert len(facts) == 5
    assert facts[0].distance == {}
    assert "08.png" in fault


def test_a_gallery_without_a_readable_image_fails_alone(
    one_model: Callable[[Collection], Engine], write_lines: Callable[..., Path]
) -> None:
    line = {"image": "a.png", "captions": ["a"], "label": None, "split": "test"}
    collection = Collection("none", load_pairs(write_lines(line)))
    answer = one_model(collection).images_for(collection, "test", QUERY, shown=3)
    assert answer.waiting["tiny"].state == "failed"
    assert "none of the 1 images can be read" in answer.waiting["tiny"].message


def test_what_a_library_refuses(make_library: Callable[..., Library], squares: PairDataset) -> None:
    source = Source("a", lambda: None)
    for models, data, message in (
        ([], [source], "at least one model"),
        ([source], [], "at least one model"),
        ([Source(str(n), lambda: None) for n in range(5)], [source], "5 models"),
        ([source, source], [source], "two models have the name 'a'"),
        ([source], [source, source], "two data sets have the name 'a'"),
    ):
        with pytest.raises(InputError, match=message):
            Library(models, data)
    twice = make_library(
        {"a": lambda: load_encoder("openmoji-mini")},
        {"a": lambda: Collection("a", squares), "b": lambda: Collection("b", squares)},
    )
    assert "the same images" in refusal(twice.wait)


def test_what_is_refused_at_once_and_a_stop(
    fresh_engine: Engine, poisoned: Collection, cut_jpeg: bytes
) -> None:
    # while the captions are still being embedded
    assert "picture" in refusal(fresh_engine.captions_for, poisoned, "test", cut_jpeg, shown=5)
    assert "51 results" in refusal(fresh_engine.images_for, poisoned, "test", QUERY, shown=51)
    fresh_engine.library.stop()
    assert fresh_engine.library._thread is not None
    assert not fresh_engine.library._thread.is_alive()
