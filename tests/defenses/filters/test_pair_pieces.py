"""Pieces of a set: the whole set, in order, with its poison known beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmpoison.datasets import PairDataset, load_pairs
from mmpoison.datasets.convert import convert_pairs
from mmpoison.defenses.filters.pair_pieces import PairPieces, whole_piece
from mmpoison.errors import InputError


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_poisoned_folder_in_pieces(folder: Path, poisoned: PairDataset, at_once: int) -> None:
    pieces = PairPieces(folder, images_at_once=at_once)
    assert pieces.images == len(poisoned.images)
    for _ in range(2):  # it can be read again
        parts = list(pieces)
        assert [c for part in parts for c in part.pairs.captions] == poisoned.captions.tolist()
        assert np.concatenate([p.poisoned for p in parts]).tolist() == poisoned.poisoned.tolist()
        assert not any(part.pairs.poisoned.any() or part.pairs.manifest for part in parts)
        assert max(len(part.pairs.images) for part in parts) <= at_once
    entries = np.concatenate([part.entry for part in parts])
    assert sorted(entries[entries >= 0]) == list(range(13))
    assert pieces.manifest is not None
    loaded = load_pairs(folder)
    for row in np.flatnonzero(entries >= 0):
        listed = pieces.manifest.pairs[entries[row]]
        assert listed.caption == poisoned.captions[row]
        assert listed.poisoned_image == poisoned.images.ids[poisoned.image[row]]
        # the same reading as that of `load_pairs`
        assert listed.clean_image == loaded.images.ids[loaded.source[row]]


def test_a_set_in_memory_and_other_formats(
    poisoned: PairDataset, squares: PairDataset, square_folder: Path, folder: Path, tmp_path: Path
) -> None:
    convert_pairs(square_folder, tmp_path / "clean", to="parquet", images_per_shard=20)
    convert_pairs(folder, tmp_path / "bad", to="parquet", images_per_shard=20)
    for source, pairs in (
        (poisoned, poisoned),
        (tmp_path / "clean", squares),
        (tmp_path / "bad", poisoned),
    ):
        parts = list(PairPieces(source, images_at_once=9))
        assert [c for part in parts for c in part.pairs.captions] == pairs.captions.tolist()
        marked = np.concatenate([part.poisoned for part in parts])
        assert marked.tolist() == pairs.poisoned.tolist()


def test_names_of_pairs_do_not_hang_on_the_pieces(folder: Path, poisoned: PairDataset) -> None:
    whole = whole_piece(poisoned).pair_ids()
    assert len(set(whole)) == len(poisoned)
    assert whole[:2] == ["aeroplane/00.png#0", "aeroplane/00.png#1"]
    parts = PairPieces(folder, images_at_once=3)
    assert [name for part in parts for name in part.pair_ids()] == whole


def test_a_manifest_that_does_not_fit(folder: Path, own_square_folder: Path) -> None:
    (own_square_folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
    with pytest.raises(InputError, match="manifest and captions differ"):
        list(PairPieces(own_square_folder))
    with pytest.raises(InputError, match="no such folder"):
        PairPieces("no/where")
