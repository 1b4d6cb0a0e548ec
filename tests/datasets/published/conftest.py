"""Small files in the layouts of COCO, Flickr30k, PASCAL Sentences and Visual Genome."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmpoison.datasets.published.flickr_pascal import CLASSES


def write_flickr(folder: Path) -> None:
    """Write six images with five captions each."""
    folder.mkdir(parents=True)
    lines = [
        f"{number}.jpg#{which}\tflickr {number} caption {which}"
        for number in range(1000, 1006)
        for which in range(5)
    ]
    (folder / "results_20130124.token").write_text("\n".join(lines) + "\n")


def write_pascal(folder: Path) -> None:
    """Write four images of each class with five captions each."""
    folder.mkdir(parents=True)
    names = {f"2008_{n:06}.jpg": label for n, label in enumerate(sorted(CLASSES * 4))}
    entries = {
        name: {"category": label, "captions": [f"{name} {n}" for n in range(5)]}
        for name, label in names.items()
    }
    (folder / "pascal_sentences.json").write_text(json.dumps(entries))


def regions_of(image: int, *phrases: Any) -> dict[str, Any]:
    """Return an entry of Visual Genome's descriptions of regions."""
    regions = [
        {"region_id": image * 100 + n, "image_id": image, "phrase": phrase, "x": 1, "width": 82}
        for n, phrase in enumerate(phrases)
    ]
    return {"id": image, "regions": regions}


def write_regions(folder: Path, phrases: Mapping[int, Sequence[str]]) -> Path:
    """Write the regions of each image, without images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [regions_of(image, *of) for image, of in phrases.items()]
    (folder / "region_descriptions.json").write_text(json.dumps(images))
    return folder


CATEGORIES = {1: "person", 17: "cat", 80: "toaster", 89: "hair drier"}


def coco_name(year: int, part: str, number: int) -> str:
    """Name the file of an image of COCO."""
    return f"COCO_{part}2014_{number:012d}.jpg" if year == 2014 else f"{number:012d}.jpg"


def write_coco(
    folder: Path,
    objects: Mapping[int, Sequence[int]],
    part: str = "train",
    year: int = 2017,
    *,
    captions: int = 2,
    say: Callable[[int, int], str] = lambda image, n: f" image {image} text {n}\n",
    categories: Mapping[int, str] = CATEGORIES,
    images: bool = False,
    change: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
) -> Path:
    """Write one part of COCO.

    Args:
        folder: Where `annotations/` goes.
        objects: Of each image id the categories of its objects; their areas grow.
        part: `train` or `val`.
        year: 2014 or 2017.
        captions: Of each image.
        say: Gives each caption.
        categories: Names by number.
        images: Write empty files of the images too.
        change: Changes the files of captions and of instances before they are written.
    """
    records = [{"id": number, "file_name": coco_name(year, part, number)} for number in objects]
    said = [
        {"image_id": number, "id": 10 * number + n, "caption": say(number, n)}
        for n in range(captions)
        for number in objects
    ]
    things = [(number, category) for number, found in objects.items() for category in found]
    instances = [
        {"id": -n, "image_id": number, "category_id": category, "area": 702.1 + n, "bbox": [1.5, 2]}
        for n, (number, category) in enumerate(things)
    ]
    names = [{"id": number, "name": name} for number, name in categories.items()]
    files: dict[str, dict[str, Any]] = {
        "captions": {"info": {}, "images": records, "annotations": said},
        "instances": {"images": records, "annotations": instances, "categories": names},
    }
    if change is not None:
        change(*files.values())
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for kind, content in files.items():
        (folder / "annotations" / f"{kind}_{part}{year}.json").write_text(json.dumps(content))
    for record in records if images else ():
        (folder / f"{part}{year}").mkdir(exist_ok=True)
        (folder / f"{part}{year}" / str(record["file_name"])).touch()
    return folder


def karpathy_image(name: str, split: str = "train", *raw: Any) -> dict[str, Any]:
    """An entry of Karpathy's JSON, with two captions unless they are given."""
    return {
        "filename": name,
        "imgid": 0,
        "sentences": [
            {"tokens": ["many", "planes"], "raw": text, "imgid": 0, "sentid": n}
            for n, text in enumerate(raw or ("many planes are parked . ", "some planes ."))
        ],
        "split": split,
        "sentids": [0, 1],
    }


@pytest.fixture
def flickr_pascal_root(tmp_path: Path) -> Path:
    """Small Flickr30k and the captions of a small PASCAL Sentences, each in its folder."""
    write_flickr(tmp_path / "flickr30k")
    write_pascal(tmp_path / "pascal-sentences")
    return tmp_path
