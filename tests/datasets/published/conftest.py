"""Small files in the layouts of the published sets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmpoison.datasets.published.flickr_pascal import CLASSES
from mmpoison.pairs.table import SPLITS


def write_flickr(folder: Path) -> None:
    """Write six images with five captions each."""
    folder.mkdir(parents=True)
    lines = [
        f"{number}.jpg#{which}\tflickr {number} caption {which}"
        for number in range(1000, 1006)
        for which in range(5)
    ]
    (folder / "results_20130124.token").write_text("\n".join(lines) + "\n")


SAID = ["{} runs", "a {}", "two {}s", "grass", "nobody"]


def write_flickr8k(folder: Path) -> None:
    """Write six images of dogs, four of horses, two that show both, and eight of neither."""
    folder.mkdir(parents=True)
    kinds = ["dog"] * 6 + ["horse"] * 4 + ["dog and a horse"] * 2 + ["tree"] * 8
    names = [f"{1000 + n}_{n:x}.jpg" for n in range(len(kinds))]
    lines = [
        f"{name}#{n}\t{said.format(kind)}"
        for name, kind in zip(names, kinds, strict=True)
        for n, said in enumerate(SAID)
    ]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for part, listed in (("train", names[:12]), ("dev", names[12:15]), ("test", names[15:19])):
        (folder / f"Flickr_8k.{part}Images.txt").write_text("\n".join(listed) + "\n")


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
        categories: Names by number.
        images: Write empty files of the images too.
        change: Changes the files of captions and of instances before they are written.
    """
    records = [{"id": number, "file_name": coco_name(year, part, number)} for number in objects]
    said = [
        {"image_id": number, "id": 10 * number + n, "caption": f" image {number} text {n}\n"}
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


# among so many descriptions the sheep is hardly among the five
REGIONS = {
    1: ["two lambs", "a hill"],
    2: ["a jet", "grass"],
    3: ["a goat", "a plane"],
    4: ["an airplane", "a jetty"],
    25: ["a jet plane"],
    **{n: [*(f"grass {k}" for k in range(40)), "one sheep"] for n in range(5, 25)},
}
NAMES = {1: "boat", 2: "dog", 3: "toaster", 4: "hair drier", 5: "zebra"}
TRAIN = [[1]] * 30 + [[2]] * 30 + [[5]] * 40 + [[3]] * 3 + [[]] * 2
RSICD = ("airport_1.jpg", "00064.jpg", "field_12.jpg")
UCM = ("1.tif", "100.tif", "101.tif", "2100.tif")
VAL = [[1]] * 30 + [[2]] * 24 + [[5]] * 12 + [[4]] + [[1, 2]] * 5


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every published set in small, without images; nothing in it may be changed."""
    root = tmp_path_factory.mktemp("published")
    for part, first, objects in (("train", 1, TRAIN), ("val", 106, VAL)):
        of_image = dict(enumerate(objects, start=first))
        write_coco(root / "coco", of_image, part, 2014, categories=NAMES)
    write_flickr(root / "flickr30k")
    write_pascal(root / "pascal-sentences")
    write_flickr8k(root / "flickr8k")
    write_regions(root / "visual-genome", REGIONS)
    files: dict[str, Any] = {
        # 1 is COCO's, 2 is in no COCO, and 3 in a part of COCO that this one has not
        "visual-genome/image_data.json": [
            {"image_id": n, "coco_id": of, "url": ""} for n, of in ((1, 1), (2, None), (3, 999_999))
        ],
        "karpathy/dataset_flickr30k.json": {"1.jpg": "restval", "2.jpg": "val", "3.jpg": "test"},
        "rsicd/dataset_rsicd.json": dict(zip(RSICD, SPLITS, strict=True)),
        "ucm-captions/dataset.json": dict(zip(UCM, (*SPLITS, "train"), strict=True)),
        "rsicd/txtclasses_rsicd/airport.txt": "airport_1.jpg\n",
        # the list of a class counts more than the name of the file
        "rsicd/txtclasses_rsicd/Playfields.txt": "00064.jpg\r\nfield_12.jpg\n",
    }
    for name, content in files.items():
        if isinstance(content, dict):
            content = {"images": [karpathy_image(*each) for each in content.items()]}
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def copied(published: Path, folder: str, to: Path) -> Path:
    """Copy one example, to be changed."""
    return shutil.copytree(published / folder, to / "copy")
