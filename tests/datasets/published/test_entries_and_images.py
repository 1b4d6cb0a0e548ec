"""Published sets: broken entries of Karpathy's JSON, and images of any set that are missing or elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.datasets.published.conftest import coco_name, karpathy_image, write_coco, write_regions

from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.errors import InputError, MmpoisonWarning

# the file, the folder of images, four images
LAYOUTS = {
    "rsicd": ("dataset_rsicd.json", "RSICD_images", [f"airport_{n}.jpg" for n in range(1, 5)]),
    "ucm-captions": ("dataset.json", "imgs", [f"{n}.tif" for n in range(1, 5)]),
    "flickr30k": ("dataset_flickr30k.json", "images", [f"{n}.jpg" for n in range(1, 5)]),
}


def write(root: Path, name: str, *images: Any) -> Path:
    file, folder, names = LAYOUTS[name]
    (root / folder).mkdir()
    for image in names:
        (root / folder / image).touch()
    (root / file).write_text(json.dumps({"images": images}))
    return root / folder


def load_in_part(root: Path, name: str, **options: Any) -> PairDataset:
    with pytest.warns(MmpoisonWarning, match="left out"):
        return load_dataset(name, root, options=options)


# entry by the names of two images and their folder, what is said of it
OF_BOTH: list[tuple[Any, str]] = [
    (lambda one, two: 5, "images[1]: not as it should be (Expected `object`, got `int`)"),
    (lambda one, two: {"filename": two}, "missing required field `sentences`"),
    (lambda one, two: {"filename": None, "sentences": []}, "Expected `str`, got `null` - at `$.fi"),
    (lambda one, two: karpathy_image(two, "rest"), "split 'rest' is none of train, val, test"),
    (
        lambda one, two: karpathy_image(two, "train", " ", "x"),
        "a caption of '{folder}/{two}' is emp",
    ),
    (lambda one, two: karpathy_image(two, "train", 4, "x"), "of '{folder}/{two}' is not text: 4"),
    (lambda one, two: karpathy_image(two, "train", None, "x"), "is not text: None"),
    (lambda one, two: karpathy_image(one), "image '{folder}/{one}' occurs twice"),
    (lambda one, two: karpathy_image(f"../{two}"), "'{folder}/../{two}' leaves the folder"),
]
OF_UCM = [
    (lambda one, two, name=name: karpathy_image(name), f"images[1]: '{name}' is no number from 1")
    for name in ("2101.tif", "0.tif", "airplane.tif", "²1.tif")
] + [(lambda one, two: karpathy_image("9" * 5000 + ".tif"), "is no number")]


@pytest.mark.parametrize(
    ("name", "entry", "problem"),
    [
        *((name, *case) for name in LAYOUTS for case in OF_BOTH),
        *(("ucm-captions", *case) for case in OF_UCM),
    ],
)
def test_a_broken_entry_is_left_out_and_named(
    tmp_path: Path, name: str, entry: Any, problem: str
) -> None:
    _, folder, (one, two, *_) = LAYOUTS[name]
    write(tmp_path, name, karpathy_image(one), entry(one, two))
    pairs = load_in_part(tmp_path, name)
    (said,) = pairs.problems
    assert problem.format(folder=folder, one=one, two=two) in said
    assert len(said.splitlines()) == 1
    assert pairs.images.ids[0] == f"{folder}/{one}"
    assert (pairs.images.label(0) is None) == (name == "flickr30k")


SHEEP = [f"2008_{n:06d}.jpg" for n in range(4)]
OTHERS: dict[str, tuple[str, list[str], Callable[[Path], object]]] = {
    "coco": (
        "train2017",
        [coco_name(2017, "train", n) for n in range(4)],
        lambda root: write_coco(root, {n: [17] for n in range(4)}),
    ),
    "pascal-sentences": (
        "images",
        SHEEP,
        lambda root: (root / "pascal_sentences.json").write_text(
            json.dumps({name: {"category": "sheep", "captions": ["a sheep"]} for name in SHEEP})
        ),
    ),
    "visual-genome": (
        "VG_100K",
        [f"{n}.jpg" for n in range(4)],
        lambda root: write_regions(root, {n: ["a sheep"] for n in range(4)}),
    ),
}
"""Sets in files of their own: the folder of images, four images, what writes the rest."""


@pytest.mark.parametrize("name", [*LAYOUTS, *OTHERS])
def test_images_elsewhere_and_missing(tmp_path: Path, name: str) -> None:
    if name in LAYOUTS:
        names = LAYOUTS[name][2]
        folder = write(tmp_path, name, *map(karpathy_image, names))
    else:
        place, names, write_files = OTHERS[name]
        write_files(tmp_path)
        folder = tmp_path / place
        folder.mkdir()
        for image in names:
            (folder / image).touch()
    # COCO looks for its first image to find the folder
    gone = names[1] if name == "coco" else names[0]
    (folder / gone).unlink()
    (said,) = load_in_part(tmp_path, name).problems
    assert "1 of 4 images are not under" in said
    assert said.endswith(f": {folder.name}/{gone}")
    assert len(load_dataset(name, tmp_path, options={"missing": "keep"}).images) == 4
    (tmp_path / "elsewhere").mkdir()
    photos = folder.rename(tmp_path / "elsewhere" / folder.name)
    # no folder of images at all: the table by itself
    whole = load_dataset(name, tmp_path)
    assert whole.problems == ()
    assert len(whole.images) == 4
    # Visual Genome has two folders of images, so theirs is named
    inner = f"{photos.name}/" if name == "visual-genome" else ""
    root = photos.parent if inner else photos
    found = load_in_part(tmp_path, name, images=root)
    assert found.root == root
    assert list(found.images.ids) == [f"{inner}{n}" for n in names if n != gone]
    for photo in photos.iterdir():
        photo.unlink()
    with pytest.raises(InputError, match=r"holds no image \(.*4 of 4 images are not under"):
        load_dataset(name, tmp_path, options={"images": root})
    with pytest.raises(InputError, match="nowhere: no such folder of images"):
        load_dataset(name, tmp_path, options={"images": tmp_path / "nowhere"})
