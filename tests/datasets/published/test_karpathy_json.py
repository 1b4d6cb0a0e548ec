"""The sets of remote sensing in Karpathy's JSON: broken entries, and images that are missing or elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.datasets.published.conftest import karpathy_image

from mmpoison.datasets import PairDataset, load_dataset
from mmpoison.errors import MmpoisonWarning

# the file, the folder of images, four images
LAYOUTS = {
    "rsicd": ("dataset_rsicd.json", "RSICD_images", [f"airport_{n}.jpg" for n in range(1, 5)]),
    "ucm-captions": ("dataset.json", "imgs", [f"{n}.tif" for n in range(1, 5)]),
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
    assert pairs.images.label(0) is not None


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_elsewhere_and_missing(tmp_path: Path, name: str) -> None:
    names = LAYOUTS[name][2]
    folder = write(tmp_path, name, *map(karpathy_image, names))
    (folder / names[1]).unlink()
    assert "1 of 4 images are not under" in load_in_part(tmp_path, name).problems[0]
    assert len(load_dataset(name, tmp_path, options={"missing": "keep"}).images) == 4
    photos = folder.rename(tmp_path / "photos")
    # no folder of images at all: the table by itself
    whole = load_dataset(name, tmp_path)
    assert whole.problems == ()
    assert len(whole.images) == 4
    assert list(load_in_part(tmp_path, name, images=photos).images.ids) == [names[0], *names[2:]]
