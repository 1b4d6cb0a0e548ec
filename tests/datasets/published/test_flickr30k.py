"""`flickr30k`: its three files of captions in small, what breaks them, and the whole set where it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.datasets.published.conftest import karpathy_image

from mmpoison.datasets import DATASETS, PairDataset, load_pairs
from mmpoison.datasets.published.flickr_pascal import load_flickr30k
from mmpoison.errors import InputError, MmpoisonWarning

TOKENS = (
    "1000092795.jpg#0\tTwo young guys with shaggy hair look at their hands .\n"
    "1000092795.jpg#1\tTwo young , White males are outside near many bushes .\n"
    '10002456.jpg#0\tSeveral men in "hard hats" | are operating a giant pulley system .\n'
    "10002456.jpg#1\tWorkers look down from up above on a piece of equipment .\n"
)
CSV = (
    "image_name| comment_number| comment\n"
    "1000092795.jpg| 0| Two young guys with shaggy hair look at their hands .\n"
    "1000092795.jpg| 1| Two young , White males are outside near many bushes .\n"
    '10002456.jpg| 0| Several men in "hard hats" | are operating a giant pulley system .\n'
    "10002456.jpg| 1| Workers look down from up above on a piece of equipment .\n"
)
KARPATHY: dict[str, Any] = {
    "images": [
        karpathy_image(f"{n}.jpg", split, "Two young guys .", "Two men.")
        for n, split in enumerate(("train", "val", "test"), start=1)
    ]
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "flickr30k"
    folder.mkdir()
    return folder


def _captions(pairs: PairDataset) -> dict[str, list[str]]:
    return {line["image"]: line["captions"] for line in pairs.lines()}


def _images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


# -- the layouts -----------------------------------------------------------------------------------


def test_the_token_file(root: Path) -> None:
    (root / "results_20130124.token").write_text(TOKENS)
    _images(root / "flickr30k-images", "1000092795.jpg", "10002456.jpg")
    pairs = load_pairs(root)
    assert pairs.problems == ()
    assert pairs.classes == ()
    assert _captions(pairs) == {
        "flickr30k-images/1000092795.jpg": [
            "Two young guys with shaggy hair look at their hands .",
            "Two young , White males are outside near many bushes .",
        ],
        "flickr30k-images/10002456.jpg": [
            'Several men in "hard hats" | are operating a giant pulley system .',
            "Workers look down from up above on a piece of equipment .",
        ],
    }
    assert pairs.counts()["splits"] == {"train": {"images": 2, "pairs": 4}}


def test_kaggles_file_says_the_same(root: Path) -> None:
    (root / "results_20130124.token").write_text(TOKENS)
    tokens = load_pairs(root / "results_20130124.token")
    (root / "results.csv").write_text(CSV)
    table = load_pairs(root / "results.csv")
    assert table.problems == ()
    assert table.fingerprint == tokens.fingerprint


def test_kaggles_folder(root: Path) -> None:
    inner = root / "flickr30k_images"
    _images(inner / "flickr30k_images", "1000092795.jpg", "10002456.jpg")
    (inner / "results.csv").write_text(CSV)
    for place in (root, inner):
        pairs = load_pairs(place)
        assert pairs.problems == ()
        assert all((pairs.root / name).is_file() for name in pairs.images.ids)


def test_the_broken_line_of_kaggles_file_is_mended(root: Path) -> None:
    lines = CSV.splitlines()
    lines.insert(3, "1000092795.jpg| 4   A dog runs across the grass .")
    (root / "results.csv").write_text("\n".join(lines))
    pairs = load_pairs(root)
    assert pairs.problems == ()
    assert _captions(pairs)["flickr30k-images/1000092795.jpg"][2] == "A dog runs across the grass ."


def test_karpathys_file(root: Path) -> None:
    (root / "dataset_flickr30k.json").write_text(json.dumps(KARPATHY))
    pairs = load_pairs(root)
    assert {name: split["images"] for name, split in pairs.counts()["splits"].items()} == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert list(pairs.captions[:2]) == ["Two young guys .", "Two men."]
    every = load_pairs(root, split="all-train")
    assert every.counts()["splits"] == {"train": {"images": 3, "pairs": 6}}


def test_of_several_files_the_one_with_all_images_is_taken(root: Path) -> None:
    (root / "results_20130124.token").write_text(TOKENS)
    (root / "results.csv").write_text(CSV)
    (root / "dataset_flickr30k.json").write_text(json.dumps(KARPATHY))
    assert len(load_pairs(root).images) == 2
    assert len(load_pairs(root, split="karpathy").images) == 3
    assert len(load_pairs(root / "dataset_flickr30k.json").images) == 3


def test_images_beside_the_captions(root: Path) -> None:
    (root / "results_20130124.token").write_text(TOKENS)
    _images(root, "1000092795.jpg", "10002456.jpg")
    assert list(load_pairs(root).images.ids) == ["1000092795.jpg", "10002456.jpg"]


# -- broken files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"10002456.jpg#1\tagain", "line 5: caption 1 of '10002456.jpg' occurs twice"),
        (b"10002456.jpg#2 no tab", "line 5: not image#number, a tab and a caption"),
        (b"10002456.jpg\tno number", "line 5: not image#number, a tab and a caption"),
        (b"#2\tno name", "line 5: not image#number, a tab and a caption"),
        (b"10002456.jpg#2\t   ", "line 3: a caption of 'flickr30k-images/10002456.jpg' is empty"),
        (b"10002456.jpg#2\tcaf\xe9", "line 5: not UTF-8"),
        (b"../../x.jpg#0\tout", "'flickr30k-images/../../x.jpg' leaves the folder"),
        (b"a\x00b.jpg#0\tnull", "leaves the folder"),
    ],
)
def test_a_broken_line_of_the_token_file(root: Path, line: bytes, problem: str) -> None:
    (root / "results_20130124.token").write_bytes(TOKENS.encode() + line + b"\n")
    pairs = load_flickr30k(root)
    assert problem in pairs.problems[0]
    assert len(pairs.problems) == 1
    assert len(pairs) == 4
    with pytest.warns(MmpoisonWarning, match="left out: "):
        load_pairs(root)


@pytest.mark.parametrize(
    "line", ["10002456.jpg", "10002456.jpg| two| x", "10002456.jpg| nothing here", "10002456.jpg||"]
)
def test_a_broken_line_of_kaggles_file(root: Path, line: str) -> None:
    (root / "results.csv").write_text(CSV + line + "\n")
    pairs = load_flickr30k(root)
    assert pairs.problems == ("results.csv line 6: not image| number| caption",)
    assert len(pairs) == 4


def test_a_file_in_another_encoding(root: Path) -> None:
    (root / "results_20130124.token").write_text(TOKENS, encoding="utf-16")
    with pytest.raises(InputError, match=r"holds no image \(results_20130124\.token line 1: not"):
        load_pairs(root)
    (root / "results_20130124.token").write_text(TOKENS, encoding="utf-8-sig")
    assert load_pairs(root).images.ids[0] == "flickr30k-images/1000092795.jpg"


def test_a_split_that_is_not_there(root: Path) -> None:
    (root / "results_20130124.token").write_text(TOKENS)
    with pytest.raises(InputError, match=r"has no dataset_flickr30k\.json"):
        load_flickr30k(root, split="karpathy")
    with pytest.raises(InputError, match="has no split, split=karpathy needs"):
        load_flickr30k(root / "results_20130124.token", split="karpathy")


def test_a_results_csv_of_another_kind_is_not_recognised(root: Path) -> None:
    recognise = DATASETS["flickr30k"].recognise
    assert recognise is not None
    (root / "results.csv").write_text(CSV)
    assert recognise(root) == recognise(root / "results.csv") == "results.csv"
    (root / "results.csv").write_text("epoch,loss\n1,0.5\n")
    assert recognise(root) is None
    assert recognise(root / "results.csv") is None
