"""`rsicd` and `ucm-captions`: their classes, and the real photos in the authors' layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import SHARED, refusal
from tests.datasets.published.conftest import copied, karpathy_image

from mmpoison.datasets import DATASETS, load_pairs
from mmpoison.datasets.published.satellite import load_rsicd
from mmpoison.pairs.labels import labels_of

needs_photos = pytest.mark.skipif(
    not (SHARED / "ucm" / "captions.jsonl").is_file(),
    reason=f"the photos are not at {SHARED} (set MMPOISON_SHARED_DATA)",
)


# -- the classes -----------------------------------------------------------------------------------


def test_broken_lists_of_classes_and_none(published: Path, tmp_path: Path) -> None:
    root = copied(published, "rsicd", tmp_path)
    lists = root / "txtclasses_rsicd"
    (lists / "Beach.txt").write_bytes(b"caf\xe9.jpg")
    (lists / "Zoo.txt").write_text("00064.jpg")
    assert load_rsicd(root).problems == (
        "Beach.txt: not UTF-8, its class is not used",
        "Zoo.txt: 00064.jpg is in class 'playfields' already",
    )
    for file in lists.iterdir():
        file.unlink()
    pairs = load_rsicd(root)
    assert labels_of(pairs) == ["airport", None, "field"]
    (said,) = pairs.problems
    assert "the class of 1 image is unknown" in said
    assert said.endswith("00064.jpg")


def test_what_is_not_ucm_captions(published: Path, tmp_path: Path) -> None:
    root = copied(published, "ucm-captions", tmp_path)
    recognise = DATASETS["ucm-captions"].recognise
    assert recognise is not None
    assert recognise(root) == recognise(root / "dataset.json") == "dataset.json"
    images = [karpathy_image(f"{number}.tif") for number in range(1, 614)]
    (root / "dataset.json").write_text(json.dumps({"images": images}))
    assert "so it is Sydney-Captions, not UCM-Captions" in refusal(load_pairs, root)
    for content in ('{"images": [{"filename": "1.jpg"}]}', '{"x": "1.tif"}'):
        (root / "dataset.json").write_text(content)
        assert recognise(root) is None
    (root / "dataset.json").unlink()
    assert recognise(root) is None


# -- real data -------------------------------------------------------------------------------------


@needs_photos
def test_the_sample_put_back_into_the_authors_layout(tmp_path: Path) -> None:
    """The classes by number are those of the sample, whose files keep their number."""
    sample = load_pairs(SHARED / "ucm")
    entries = [
        karpathy_image(f"{int(line['image'][-8:-4])}.tif", line["split"], *line["captions"])
        for line in sample.lines()
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
    pairs = load_pairs(tmp_path)
    assert list(pairs.captions) == list(sample.captions)
    assert pairs.counts() == sample.counts()
    assert labels_of(pairs) == labels_of(sample)
