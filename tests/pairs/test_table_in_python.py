"""`PairDataset` in Python and in notebooks: its repr, pictures, slices, iteration, and as a data frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import refusal

from mmpoison.datasets import ImageTable, PairDataset, load_pairs
from mmpoison.errors import InputError


@pytest.fixture
def pairs(own_square_folder: Path) -> PairDataset:
    return load_pairs(own_square_folder)


def made(root: Path, captions: list[str], ids: list[str]) -> PairDataset:
    images = ImageTable.build(ids, [None] * len(ids), ["train"] * len(ids), root)
    return PairDataset.build(images, captions, range(len(ids)))


def poisoned(pairs: PairDataset) -> PairDataset:
    """The first caption put on the last image as well."""
    last = len(pairs.images) - 1
    return PairDataset.build(
        pairs.images,
        [*pairs.captions, pairs.captions[0]],
        [*pairs.image, last],
        [*pairs.source, pairs.image[0]],
    )


# -- repr ------------------------------------------------------------------------------------------


def test_repr_counts_pairs_images_and_classes(pairs: PairDataset) -> None:
    whole = f"PairDataset({len(pairs)} pairs, {len(pairs.images)} images, 4 classes)"
    assert repr(pairs) == whole
    assert repr(poisoned(pairs)) == whole.replace(
        f"{len(pairs)} pairs", f"{len(pairs) + 1} pairs"
    ).replace(")", ", 1 poisoned)")
    # of a part, what is in the part
    assert repr(pairs[:1]) == "PairDataset(1 pair, 1 image, 1 class)"
    assert repr(pairs[:0]) == "PairDataset(0 pairs, 0 images, 0 classes)"
    assert repr(pairs.images) == f"ImageTable({len(pairs.images)} images, 4 classes)"


# -- one pair, parts, iteration --------------------------------------------------------------------


def test_a_position_gives_a_pair(pairs: PairDataset) -> None:
    both = poisoned(pairs)
    first, last = both[0], both[-1]
    assert (first.image, first.caption) == (pairs.images.ids[0], pairs.captions[0])
    assert (first.label, first.split, first.poisoned) == ("aeroplane", "train", False)
    assert first.clean_image == first.image
    assert (last.image, last.caption) == (pairs.images.ids[-1], pairs.captions[0])
    assert (last.label, last.split, last.poisoned) == (None, "train", True)
    assert last.clean_image == first.image
    assert both[np.int64(0)] == first
    for position in (len(both), -len(both) - 1):
        with pytest.raises(IndexError):
            both[position]


@pytest.mark.parametrize(
    "key", [slice(2, 9), slice(-3, None), slice(None, None, 7), [0, 3, -1], []]
)
def test_slices_and_positions(pairs: PairDataset, key: slice | list[int]) -> None:
    rows = np.arange(len(pairs))[key if isinstance(key, slice) else np.array(key, dtype=int)]
    part = pairs[key]
    assert part.images is pairs.images
    assert list(part.captions) == [pairs.captions[row] for row in rows]
    assert part.image.tolist() == pairs.image[rows].tolist()


@pytest.mark.parametrize(
    ("key", "error"),
    [
        *((key, InputError) for key in ([3, 1], [2, 2], slice(None, None, -1), [[0]])),
        *((key, IndexError) for key in ("train", [0.5], [10**6])),
        (np.ones(3, dtype=bool), InputError),
    ],
)
def test_other_keys_are_refused(pairs: PairDataset, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        pairs[key]


# -- pictures --------------------------------------------------------------------------------------


def test_html_escapes_and_cuts_captions(own_square_folder: Path) -> None:
    image = "sheep/00.png"
    (own_square_folder / "<b>.png").write_bytes((own_square_folder / image).read_bytes())
    nasty = made(own_square_folder, ['<script>"&', "long " * 100], ["<b>.png", image])
    shown = nasty._repr_html_()
    assert "&lt;script&gt;&quot;&amp;" in shown
    assert 'alt="&lt;b&gt;.png"' in shown
    assert "<script>" not in shown
    assert "long " * 41 not in shown


def test_html_leaves_out_broken_images(own_square_folder: Path, tmp_path: Path) -> None:
    (own_square_folder / "broken.jpg").write_bytes(b"no image")
    ids = ["broken.jpg", "../outside.jpg", "missing.jpg", "sheep/00.png"]
    (own_square_folder.parent / "outside.jpg").write_bytes(
        (own_square_folder / ids[-1]).read_bytes()
    )
    assert made(own_square_folder, list("abcd"), ids)._repr_html_().count("<img") == 1
    assert made(tmp_path / "nowhere", ["a"], ["a.jpg"])._repr_html_().count("<img") == 0


@pytest.mark.parametrize("count", [1, 3, 20])
def test_show_has_as_many_pictures_as_asked(pairs: PairDataset, count: int) -> None:
    shown = poisoned(pairs).show(count)
    html = shown._repr_html_()
    assert html.count("<img") == min(count, len(poisoned(pairs).used_images()))
    # the one poisoned pair comes first
    assert html.count("<b>poisoned:</b>") == 1
    assert repr(shown) == repr(poisoned(pairs))


def test_show_needs_a_count(pairs: PairDataset) -> None:
    assert "show 0 pairs: give at least 1" in refusal(pairs.show, 0)


# -- pandas ----------------------------------------------------------------------------------------


def test_to_pandas_has_a_row_for_each_pair(pairs: PairDataset) -> None:
    both = poisoned(pairs)
    frame = both.to_pandas()
    assert list(frame.columns) == ["image", "caption", "label", "split", "poisoned", "clean_image"]
    for row, pair in zip(frame.itertuples(index=False), both, strict=True):
        assert (row.image, row.caption, row.split) == (pair.image, pair.caption, pair.split)
        assert (row.poisoned, row.clean_image) == (pair.poisoned, pair.clean_image)
        assert (None if row.label != row.label else row.label) == pair.label
