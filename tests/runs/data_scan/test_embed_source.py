"""Pairs without embeddings: embedded piece by piece into a layout that exists, then scanned like any other."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpoison.datasets import load_dataset
from mmpoison.datasets.catalogue import NamedData
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_images, embed_texts
from mmpoison.models.inputs import prepare_pixels
from mmpoison.models.loading import load_encoder
from mmpoison.pairs.folder import save_pairs
from mmpoison.runs.data_scan import embed_source as module
from mmpoison.runs.data_scan.embed_source import EmbeddedPairs, embed_source, foreign_captions
from mmpoison.runs.data_scan.sources import open_source
from mmpoison.runs.progress import SilentProgress


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pairs folder of a hundred OpenMoji scenes; not to be changed."""
    pairs = load_dataset("openmoji", options={"unlabelled": 60, "per_class": 4, "held_out": 2})
    return save_pairs(pairs, tmp_path_factory.mktemp("scenes") / "pairs", images="copy")


def embedded(
    source: Path,
    work: Path,
    encoder: str | Path = "openmoji-mini",
    options: dict[str, Any] | None = None,
) -> EmbeddedPairs:
    return embed_source(
        NamedData(str(source), options=options or {}),
        work,
        encoder=encoder,
        device="cpu",
        progress=SilentProgress(),
    )


def test_an_aligned_model_gives_its_embeddings_and_pairs_have_names(
    scenes: Path, tmp_path: Path
) -> None:
    source = embedded(scenes, tmp_path).source
    assert source.format == "pairs-folder"
    assert source.id_kind == "key"
    (shard,) = source.shards
    text, image = shard.vectors()
    pairs = load_dataset(str(scenes))
    train = pairs.where(pairs.in_split("train"))
    encoder = load_encoder("openmoji-mini")
    inputs = prepare_pixels(encoder, train)
    assert shard.captions() == list(train.captions)
    assert np.allclose(text, embed_texts(encoder, inputs, train.captions), atol=2e-3)
    assert np.allclose(image, embed_images(encoder, inputs, train.image), atol=2e-3)
    first = str(train.images.ids[train.image[0]])
    assert shard.ids()[:2] == [f"{first}#0", f"{first}#1"]
    assert len(set(shard.ids())) == len(train)
    images = shard.image_ids()
    assert images is not None
    assert len(set(images)) == len(train.used_images())


def test_a_model_that_guesses_gives_what_its_trunks_say(
    scenes: Path, tmp_path: Path, make_encoder: Callable[..., DualEncoder]
) -> None:
    from mmpoison.models import save_checkpoint

    model = save_checkpoint(make_encoder(7), tmp_path / "model", card="# tiny\n")
    (shard,) = embedded(scenes, tmp_path / "work", encoder=model).source.shards
    text, image = shard.vectors()
    assert text.shape == image.shape
    assert np.allclose(np.linalg.norm(text.astype(float), axis=1), 1, atol=2e-3)
    assert (
        json.loads((tmp_path / "work" / "embeddings" / "kind.json").read_text())["joint"] is False
    )


def test_pieces_that_are_there_are_not_embedded_again(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "images_at_once", lambda size: 40)
    source = embedded(scenes, tmp_path).source
    assert len(source.shards) > 1
    computed: list[int] = []
    original = module._Writer._embedded

    def counting(writer: Any, part: Any) -> Any:
        computed.append(len(part))
        return original(writer, part)

    monkeypatch.setattr(module._Writer, "_embedded", counting)
    before = [shard.vectors()[0].tobytes() for shard in source.shards]
    assert [s.vectors()[0].tobytes() for s in embedded(scenes, tmp_path).source.shards] == before
    assert computed == []
    (tmp_path / "embeddings" / "img_emb" / "img_emb_1.npy").unlink()
    assert [s.vectors()[0].tobytes() for s in embedded(scenes, tmp_path).source.shards] == before
    assert len(computed) == 1


def test_an_image_that_cannot_be_read_is_a_row_without_embedding(
    own_square_folder: Path, tmp_path: Path
) -> None:
    image = next(own_square_folder.rglob("*.png"))
    image.write_bytes(image.read_bytes()[:40])
    opened = open_source(
        NamedData(str(own_square_folder)),
        tmp_path / "work",
        encoder="openmoji-mini",
        device="cpu",
        progress=SilentProgress(),
    )
    (shard,) = opened.source.shards
    broken = ~shard.vectors()[1].astype(float).any(axis=1)
    images = shard.image_ids()
    assert images is not None
    assert {images[row] for row in np.flatnonzero(broken)} == {
        str(image.relative_to(own_square_folder))
    }
    assert opened.notes[0].startswith("1 image cannot be read")


def test_a_csv_with_one_caption_an_image_keeps_its_names(scenes: Path, tmp_path: Path) -> None:
    pairs = load_dataset(str(scenes))
    with (tmp_path / "pairs.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "text", "pair", "number"])
        for image in range(30):
            row = int(np.flatnonzero(pairs.image == image)[0])
            table.writerow(
                [pairs.images.ids[image], f"{pairs.captions[row]}", f"mine {image}", image]
            )
    found = embedded(
        tmp_path / "pairs.csv",
        tmp_path / "work",
        options={"image": "path", "caption": "text", "images": str(scenes)},
    )
    ids = found.source.shards[0].ids()
    assert ids == [str(name) for name in pairs.images.ids[:30]]
    # own columns go along, under another name where the name is taken
    own = found.source.shards[0].table(np.array([7, 3])).to_pylist()
    assert [(row["pair_"], int(row["number"])) for row in own] == [("mine 7", 7), ("mine 3", 3)]


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or file, and no data set of that name"):
        embedded(tmp_path / "nothing", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_groups_of_pairs_are_shown_with_pictures(scenes: Path, tmp_path: Path) -> None:
    from mmpoison.runs.data_scan.drop import _example

    made = embedded(scenes, tmp_path)
    shard = made.source.shards[0]
    example = _example(shard, shard.ids(), 7, made.root)
    assert example["picture"].startswith("data:image/")
    assert example["id"].endswith("(shard 0, row 7)")
    assert "picture" not in _example(shard, shard.ids(), 7, None)


def test_captions_of_another_language_are_said() -> None:
    encoder = load_encoder("openmoji-mini")
    german = ["Zwei Hunde laufen über eine grüne Wiese", "Am Strand brechen sich die Wellen"]
    english = ["Two dogs run over a green meadow", "Waves are breaking on the beach"]
    said = foreign_captions(encoder, german)
    assert said is not None
    assert "tokens a word" in said
    assert "--encoder" in said
    assert foreign_captions(encoder, english) is None
    assert foreign_captions(encoder, []) is None


def test_a_scan_of_foreign_captions_says_so(tmp_path: Path) -> None:
    pairs = load_dataset("openmoji", options={"unlabelled": 60, "per_class": 4, "held_out": 2})
    german = np.full(len(pairs), "Zwei Hunde laufen über eine grüne Wiese", dtype=object)
    source = save_pairs(replace(pairs, captions=german), tmp_path / "pairs", images="copy")
    opened = open_source(
        NamedData(str(source)),
        tmp_path / "work",
        encoder="openmoji-mini",
        device="cpu",
        progress=SilentProgress(),
    )
    assert "another language" in opened.notes[0]
