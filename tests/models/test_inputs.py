"""Prepared inputs and embedding: each image and caption once, in the order asked for."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.errors import InputError
from mmpoison.images import PixelStore, Preparation, read_image
from mmpoison.models import (
    DualEncoder,
    FeatureInputs,
    PixelInputs,
    embed_images,
    embed_texts,
    prepare_features,
    prepare_pixels,
)
from mmpoison.models import inputs as inputs_module

Make = Callable[..., DualEncoder]


@pytest.fixture
def inputs(encoder: DualEncoder, squares: PairDataset) -> PixelInputs:
    return prepare_pixels(encoder, squares)


# -- embedding -------------------------------------------------------------------------------------


@pytest.fixture
def loaded(inputs: PixelInputs, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of the inputs that were loaded, in their order."""
    rows: list[int] = []

    def watched(load: Callable[..., Any]) -> Callable[..., Any]:
        def inner(batch: Any) -> Any:
            rows.extend(batch.tolist())
            return load(batch)

        return inner

    for name in ("load_images", "load_texts"):
        monkeypatch.setattr(inputs, name, watched(getattr(inputs, name)))
    return rows


def test_images_equal_a_naive_loop(
    encoder: DualEncoder, inputs: PixelInputs, squares: PairDataset, loaded: list[int]
) -> None:
    indices = np.array([5, 0, 5, 31, 5, 2, 0], dtype=np.int32)
    calls: list[tuple[int, int]] = []
    got = embed_images(
        encoder, inputs, indices, batch_size=3, progress=lambda *call: calls.append(call)
    )
    assert got.dtype == np.float32
    for row, index in zip(got, indices, strict=True):
        pixels = read_image(squares.root, squares.images.ids[index], 32)
        with torch.no_grad():
            one = encoder.encode_image(encoder.image_input(pixels[None].copy()))
        np.testing.assert_allclose(row, one.numpy()[0], atol=1e-5)
    # each once
    assert sorted(loaded) == sorted(inputs.image_rows(np.array([0, 2, 5, 31], np.int32)).tolist())
    assert calls == [(3, 4), (4, 4)]


def test_texts_equal_a_naive_loop(
    encoder: DualEncoder, inputs: PixelInputs, squares: PairDataset, loaded: list[int]
) -> None:
    captions = [str(squares.captions[n]) for n in (40, 3, 3, 199, 7, 40)]
    got = embed_texts(encoder, inputs, captions, batch_size=2)
    for row, caption in zip(got, captions, strict=True):
        with torch.no_grad():
            one = encoder.encode_text(encoder.tokens([caption]))
        np.testing.assert_allclose(row, one.numpy()[0], atol=1e-5)
    # each once, and sorted by length, so that there is next to no padding
    assert sorted(loaded) == sorted(set(inputs.text_rows(captions).tolist()))
    lengths = inputs.lengths[loaded].tolist()
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_embedding_leaves_the_mode_alone(encoder: DualEncoder, inputs: PixelInputs) -> None:
    statistics = encoder.module.visual.bn1.running_mean.clone()  # type: ignore[union-attr, operator]
    encoder.module.train()
    embed_images(encoder, inputs, np.arange(8, dtype=np.int32))
    assert encoder.module.training
    assert torch.equal(encoder.module.visual.bn1.running_mean, statistics)  # type: ignore[union-attr, arg-type]


# -- preparing -------------------------------------------------------------------------------------


def test_only_used_images_are_decoded(encoder: DualEncoder, squares: PairDataset) -> None:
    part = squares.select(label="sofa")
    inputs = prepare_pixels(encoder, part)
    assert len(inputs.pixels.pixels) == 12
    assert len(inputs.tokens) == len(set(part.captions))
    other = squares.images.indices(label="sheep")
    with pytest.raises(InputError, match=f"image {other[0]} was not prepared for this model"):
        inputs.image_rows(other)
    with pytest.raises(InputError, match="caption 'a sheep' was not prepared for this model"):
        inputs.text_rows(["a sheep"])


def test_pixels_are_used_again_where_they_were_prepared_alike(
    encoder: DualEncoder, squares: PairDataset
) -> None:
    store = PixelStore.decode(squares, 32)
    assert prepare_pixels(encoder, squares, pixels=store).pixels is store
    for other in (
        Preparation(16),
        Preparation(32, "squash"),
        Preparation(32, interpolation="bilinear"),
    ):
        unlike = PixelStore.decode(squares, other)
        got = prepare_pixels(encoder, squares, pixels=unlike).pixels
        assert got.preparation == Preparation(32)
        np.testing.assert_array_equal(got.pixels, store.pixels)


def test_pixels_of_fewer_images_are_not_taken_for_all(
    encoder: DualEncoder, squares: PairDataset
) -> None:
    store = PixelStore.decode(squares, 32, indices=squares.images.indices(label="sofa"))
    inputs = prepare_pixels(encoder, squares, pixels=store)
    assert len(embed_images(encoder, inputs, squares.used_images())) == len(squares.used_images())


# -- features of frozen trunks ---------------------------------------------------------------------


def features_equal(first: FeatureInputs, second: FeatureInputs) -> bool:
    return torch.equal(first.image_features, second.image_features) and torch.equal(
        first.text_features, second.text_features
    )


def test_features_embed_as_pixels_do(make_heads_encoder: Make, squares: PairDataset) -> None:
    encoder = make_heads_encoder()
    pixel, feature = prepare_pixels(encoder, squares), prepare_features(encoder, squares)
    images = squares.used_images()
    np.testing.assert_allclose(
        embed_images(encoder, pixel, images), embed_images(encoder, feature, images), atol=1e-5
    )
    np.testing.assert_allclose(
        embed_texts(encoder, pixel, squares.captions),
        embed_texts(encoder, feature, squares.captions),
        atol=1e-5,
    )


def test_a_cache_hit_equals_computing_again(
    make_heads_encoder: Make, squares: PairDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_heads_encoder()
    fresh = prepare_features(encoder, squares)
    first = prepare_features(encoder, squares, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2
    runs: list[int] = []
    trunk = encoder.image_trunk

    def watched(x: torch.Tensor) -> torch.Tensor:
        runs.append(len(x))
        return trunk(x)

    monkeypatch.setattr(encoder, "image_trunk", watched)
    hit = prepare_features(encoder, squares, cache=tmp_path / "cache")
    assert not runs
    assert features_equal(fresh, first)
    assert features_equal(fresh, hit)
    assert torch.equal(fresh.lengths, hit.lengths)


def test_the_cache_is_not_used_for_anything_else(
    make_heads_encoder: Make,
    own_square_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "cache"

    def new_entries() -> list[str]:
        kinds = []
        for file in (cache / "features").glob("*/entry.json"):
            if file not in known:
                known.add(file)
                kinds.append(json.loads(file.read_text())["name"].split()[0])
        return sorted(kinds)

    known: set[Path] = set()
    encoder = make_heads_encoder()
    pairs = load_pairs(own_square_folder)
    prepare_features(encoder, pairs, cache=cache)
    assert new_entries() == ["image", "text"]
    # heads and temperature do not count, trunks do
    with torch.no_grad():
        encoder.logit_scale.add_(1)
        encoder.head_parameters()[0].add_(1)
    prepare_features(encoder, pairs, cache=cache)
    assert new_entries() == []
    prepare_features(make_heads_encoder(1), pairs, cache=cache)
    assert new_entries() == ["image", "text"]
    # another image tower with the same text tower, and the reverse
    module = copy.deepcopy(encoder.module)
    mixed = DualEncoder(module, encoder.tokenizer, encoder.config, "mixed")
    heads = {id(parameter) for parameter in mixed.head_parameters()}
    one_of_image = next(p for p in mixed.image_parameters() if id(p) not in heads)
    one_of_text = next(p for p in mixed.text_parameters() if id(p) not in heads)
    for parameter, kind in ((one_of_image, "image"), (one_of_text, "text")):
        with torch.no_grad():
            parameter.add_(1)
        prepare_features(mixed, pairs, cache=cache)
        assert new_entries() == [kind]
    prepare_features(encoder, pairs.select(label="sofa"), cache=cache)
    assert new_entries() == ["image", "text"]
    # some captions of the same images
    first = np.unique(pairs.image, return_index=True)[1]
    one_each = pairs.where(np.isin(np.arange(len(pairs)), first))
    assert len(set(one_each.captions)) < len(set(pairs.captions))
    prepare_features(encoder, one_each, cache=cache)
    assert new_entries() == ["text"]
    path = own_square_folder / "sofa/03.png"
    content = path.read_bytes()
    path.write_bytes(content)
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
    prepare_features(encoder, pairs, cache=cache)
    assert new_entries() == ["image"]
    # other pixels of the same images
    config = copy.deepcopy(encoder.config)
    config["preprocess_cfg"]["interpolation"] = "bilinear"
    other = DualEncoder(encoder.module, encoder.tokenizer, config, "other")
    prepare_features(other, pairs, cache=cache)
    assert new_entries() == ["image"]
    # the same weights with other tokens
    shorter = DualEncoder(
        encoder.module, lambda texts: encoder.tokenizer(texts)[:, ::2], encoder.config, "s"
    )
    prepare_features(shorter, pairs, cache=cache)
    assert new_entries() == ["text"]
    code = "another version of the code"
    monkeypatch.setattr(inputs_module, "compute_environment", lambda *parts: code)
    prepare_features(encoder, pairs, cache=cache)
    assert new_entries() == ["image", "text"]
