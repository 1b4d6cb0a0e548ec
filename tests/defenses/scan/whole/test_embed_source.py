"""Pairs without embeddings: embedded piece by piece into a layout that exists, then scanned like any other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpoison.base.progress import SilentProgress
from mmpoison.datasets import load_dataset
from mmpoison.datasets.catalogue import NamedData
from mmpoison.defenses import RelevanceFilter, ScoreFilter
from mmpoison.defenses.scan.read import embed as module
from mmpoison.defenses.scan.read import vectors as pair_vectors
from mmpoison.defenses.scan.read.embed import foreign_captions
from mmpoison.defenses.scan.sources import OpenedSource, open_source
from mmpoison.models.embedding import embed_images, embed_texts
from mmpoison.models.inputs import prepare_pixels
from mmpoison.models.loading import load_encoder
from mmpoison.pairs.folder import save_pairs


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pairs folder of a hundred OpenMoji scenes; not to be changed."""
    pairs = load_dataset("openmoji", options={"unlabelled": 60, "per_class": 4, "held_out": 2})
    return save_pairs(pairs, tmp_path_factory.mktemp("scenes") / "pairs", images="copy")


def opened(
    source: Path,
    work: Path,
    encoder: str | Path = "openmoji-mini",
    options: dict[str, Any] | None = None,
    method: ScoreFilter | None = None,
) -> OpenedSource:
    return open_source(
        NamedData(str(source), options=options or {}),
        work,
        method or RelevanceFilter(clean_loss=0.01),
        encoder=encoder,
        device="cpu",
        progress=SilentProgress(),
    )


def test_a_method_that_compares_gets_joint_embeddings_and_pairs_have_names(
    scenes: Path, tmp_path: Path
) -> None:
    source = opened(scenes, tmp_path).source
    assert source.format == "pairs-folder"
    assert source.id_kind == "key"
    (shard,) = source.shards
    text, image = shard.vectors()
    pairs = load_dataset(str(scenes))
    train = pairs.where(pairs.in_split("train"))
    encoder = load_encoder("openmoji-mini")
    inputs = prepare_pixels(encoder, train)
    assert shard.captions() == list(train.captions)
    assert np.allclose(text, embed_texts(encoder, inputs, train.captions), atol=1e-5)
    assert np.allclose(image, embed_images(encoder, inputs, train.image), atol=1e-5)
    first = str(train.images.ids[train.image[0]])
    assert shard.ids()[:2] == [f"{first}#0", f"{first}#1"]
    assert len(set(shard.ids())) == len(train)
    images = shard.image_ids()
    assert images is not None
    assert len(set(images)) == len(train.used_images())


def test_pieces_that_are_there_are_not_embedded_again(
    scenes: Path, tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_vectors, "PIXELS_AT_ONCE", 64 * 64 * 3 * 40)
    source = opened(scenes, tmp_path).source
    assert len(source.shards) > 1
    computed: list[int] = []
    original = prepare_pixels

    def counting(model: Any, part: Any, **more: Any) -> Any:
        computed.append(len(part))
        return original(model, part, **more)

    monkeypatch.setattr(module, "prepare_pixels", counting)
    files = sorted((tmp_path / "embeddings").rglob("*.npy"))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    opened(scenes, tmp_path)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files} == before
    # another folder, and a file that is gone, take them from the cache
    (tmp_path / "embeddings" / "img_emb" / "img_emb_1.npy").unlink()
    for work in (tmp_path, tmp_path / "other"):
        found = sorted(file.read_bytes() for _, file in _files(opened(scenes, work), work))
        assert found == sorted(data for _, data in before.values())
    assert computed == []


def _files(found: OpenedSource, work: Path) -> list[tuple[str, Path]]:
    assert found.source.shards
    return [(file.name, file) for file in (work / "embeddings").rglob("*.npy")]


def test_an_image_that_there_was_no_memory_for_is_not_cached(
    scenes: Path, tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = str(load_dataset(str(scenes)).select(split="train").images.ids[0])
    original = prepare_pixels

    def failing(model: Any, part: Any, **more: Any) -> Any:
        inputs = original(model, part, **more)
        inputs.pixels = replace(
            inputs.pixels, broken={image: "no memory"}, passing=frozenset([image])
        )
        return inputs

    monkeypatch.setattr(module, "prepare_pixels", failing)
    assert list(opened(scenes, tmp_path / "one").unreadable.reasons) == [image]
    monkeypatch.setattr(module, "prepare_pixels", original)
    assert not opened(scenes, tmp_path / "two").unreadable


def test_pieces_without_a_readable_image_are_rows_of_zeros(
    own_square_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_vectors, "PIXELS_AT_ONCE", 1)
    monkeypatch.setattr(pair_vectors, "FEWEST_AT_ONCE", 2)
    images = sorted(
        {
            line["image"]: None
            for line in map(json.loads, (own_square_folder / "captions.jsonl").open())
            if line["split"] == "train"
        }
    )
    for image in images[:4]:  # the first pieces
        (own_square_folder / image).write_bytes(b"no image")
    found = opened(own_square_folder, tmp_path / "work")
    assert found.pairs is not None
    assert (~found.pairs.readable).sum() == 20
    vectors = np.concatenate([shard.vectors()[0] for shard in found.source.shards])
    assert np.array_equal(vectors.any(axis=1), found.pairs.readable)


def test_captions_of_another_language_are_said() -> None:
    encoder = load_encoder("openmoji-mini")
    german = ["Zwei Hunde laufen über eine grüne Wiese", "Am Strand brechen sich die Wellen"]
    english = ["Two dogs run over a green meadow", "Waves are breaking on the beach"]
    said = foreign_captions(encoder, german)
    assert said is not None
    assert "tokens per word" in said
    assert "--encoder" in said
    assert foreign_captions(encoder, english) is None
    assert foreign_captions(encoder, []) is None


def test_a_scan_of_foreign_captions_says_so(tmp_path: Path) -> None:
    pairs = load_dataset("openmoji", options={"unlabelled": 60, "per_class": 4, "held_out": 2})
    german = np.full(len(pairs), "Zwei Hunde laufen über eine grüne Wiese", dtype=object)
    source = save_pairs(replace(pairs, captions=german), tmp_path / "pairs", images="copy")
    assert "another language" in opened(source, tmp_path / "work").notes[0]
