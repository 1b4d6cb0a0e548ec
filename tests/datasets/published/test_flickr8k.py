"""`flickr8k`: kinds by keyword, the splits, a copy as a pairs folder, and the real photographs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SHARED, refusal
from tests.datasets.published.conftest import copied

from mmpoison.datasets import PairDataset, load_dataset, load_pairs
from mmpoison.datasets.published.flickr8k import load_flickr8k
from mmpoison.pairs.folder import load_pairs_folder, save_pairs
from mmpoison.pairs.labels import labels_of, splits_of

needs_photos = pytest.mark.skipif(
    not (SHARED / "flickr8k" / "captions.jsonl").is_file(),
    reason=f"the photographs are not at {SHARED} (set MMPOISON_SHARED_DATA)",
)


def images(pairs: PairDataset, split: str) -> set[str]:
    return set(pairs.images.ids[pairs.images.indices(split=split)])


def test_at_most_so_many_images_of_a_kind(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmpoison.datasets.published.flickr8k.MOST", 4)
    pairs = load_flickr8k(published / "flickr8k", held_out=0)
    table = Counter(zip(labels_of(pairs), splits_of(pairs), strict=True))
    assert table.pop((None, "train")) == 12
    assert table == {(kind, split): 2 for kind in ("dog", "horse") for split in ("train", "test")}


def test_a_copy_as_a_pairs_folder_and_parts_of_it(published: Path, tmp_path: Path) -> None:
    whole = load_flickr8k(published / "flickr8k", held_out=3)
    save_pairs(whole, tmp_path / "flickr8k", images="none")
    for root in (tmp_path, tmp_path / "flickr8k"):
        assert load_dataset("flickr8k", root).counts() == whole.counts()
        fewer = load_dataset("flickr8k", root, options={"unlabelled": 2})
        half = load_dataset("flickr8k", root, options={"train_share": 0.5})
        assert Counter(labels_of(fewer)) == Counter(labels_of(whole)) - Counter({None: 5})
        assert (len(images(whole, "train")), len(images(half, "train"))) == (12, 7)
        for part in (fewer, half):
            assert images(part, "train") < images(whole, "train")
            assert images(part, "val") == images(whole, "val")
        balanced = load_dataset("flickr8k-b", root)
        assert len(balanced) == len(balanced.images) == len(whole.images)
    assert load_pairs(tmp_path / "flickr8k").counts() == whole.counts()
    for option, value in (("split", "kinds"), ("held_out", 0)):
        said = refusal(load_dataset, "flickr8k", tmp_path, options={option: value})
        assert "has its own split" in said
    assert "7 images without a label" in refusal(load_flickr8k, tmp_path, unlabelled=8)
    assert "share 0.0" in refusal(load_flickr8k, tmp_path, train_share=0.0)


def test_the_split_of_the_authors(published: Path, tmp_path: Path) -> None:
    root = copied(published, "flickr8k", tmp_path)
    listed = load_flickr8k(root, split="authors")
    assert [len(images(listed, split)) for split in ("train", "val", "test")] == [13, 3, 4]
    assert listed.counts()["classes"] == {"dog": 6, "horse": 4}
    (root / "Flickr_8k.devImages.txt").unlink()
    assert "has no Flickr_8k.devImages.txt" in refusal(load_flickr8k, root, split="authors")
    assert load_flickr8k(root).counts()["images"] == 20


# -- real data -------------------------------------------------------------------------------------


@needs_photos
def test_the_photographs_put_back_into_the_authors_layout(tmp_path: Path) -> None:
    """The keyword rule gives the labels of the sample, but for those beyond a hundred of a kind."""
    sample = load_pairs_folder(SHARED / "flickr8k")
    names = [image_id.rpartition("/")[2] for image_id in sample.images.ids]
    lines = [
        f"{names[image]}#{row}\t{caption}"
        for row, (caption, image) in enumerate(zip(sample.captions, sample.image, strict=True))
    ]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(lines))
    pairs = load_pairs(tmp_path)
    assert [len(images(pairs, split)) for split in ("train", "val", "test")] == [5328, 2000, 763]
    tested = pairs.images.class_codes[pairs.images.indices(split="test")]
    assert (np.bincount(tested).min(), np.bincount(tested).max()) == (17, 50)
    classes = pairs.counts()["classes"]
    given = dict(zip(names, labels_of(sample), strict=True))
    agreed = Counter(
        given[image_id.rpartition("/")[2]] == label
        for image_id, label in zip(pairs.images.ids, labels_of(pairs), strict=True)
        if label is not None and classes[label] < 100
    )
    assert (agreed[True], agreed[False]) == (926, 8)
