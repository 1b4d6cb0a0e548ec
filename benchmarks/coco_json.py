"""Time and memory of loading COCO 2014: 123,287 images, 616,767 captions, 886,284 objects, some 590 MB of JSON.

A set of the true size and layout (outlines, boxes and all) is written to a temporary folder with an empty file for each
image, and loaded in a process of its own, as the paper uses it: train and val together, labelled by a random object.

    python benchmarks/coco_json.py --json coco_json.json
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmpoison.base.files import write_json

# the counts of COCO 2014: images, images with objects, objects, captions
PARTS = {"train": (82_783, 82_081, 604_907, 414_113), "val": (40_504, 40_137, 291_875, 202_654)}
CATEGORIES = 80
OUTLINE_NUMBERS = 46  # of an object, on average, so that the files are as large as COCO's
WORDS = (
    "a",
    "the",
    "man",
    "dog",
    "sits",
    "on",
    "in",
    "near",
    "street",
    "table",
    "red",
    "small",
    "with",
)

LOAD = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from mmpoison.datasets.published.coco import load_coco
imported = time.perf_counter()
pairs = load_coco(Path(sys.argv[1]), year=2014, parts="both", splits="paper", drop_classes=())
seconds = time.perf_counter() - imported
scale = 1024**3 if sys.platform == "darwin" else 1024**2
print(json.dumps({
    "seconds": round(seconds, 2),
    "seconds_import": round(imported - start, 2),
    "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 3),
    "pairs": len(pairs),
    "images": len(pairs.images),
    "labelled_images": int((pairs.images.class_codes >= 0).sum()),
    "classes": len(pairs.classes),
    "problems": len(pairs.problems),
}))
"""


def write_part(root: Path, part: str) -> None:
    """Write the two files of one part, and an empty file for each of its images."""
    images, with_objects, objects, captions = PARTS[part]
    rng = random.Random(part)
    folder = root / f"{part}2014"
    folder.mkdir()
    header: dict[str, object] = {
        "info": {"description": "made", "year": 2014},
        "licenses": [{"id": 1, "name": "none"}],
    }
    records: list[dict[str, object]] = []
    for number in range(1, images + 1):
        name = f"COCO_{part}2014_{number:012d}.jpg"
        (folder / name).touch()
        url = f"http://images.cocodataset.org/{part}2014/{name}"
        records.append(
            {
                "license": 1,
                "file_name": name,
                "coco_url": url,
                "height": 480,
                "width": 640,
                "date_captured": "2013-11-14 17:02:52",
                "flickr_url": f"http://farm7.staticflickr.com/6116/{number:010d}_da26cf2c9e_z.jpg",
                "id": number,
            }
        )

    def caption_lines() -> Iterator[str]:
        for number in range(captions):
            text = " ".join(rng.choices(WORDS, k=11))
            image = number % images + 1
            yield json.dumps({"image_id": image, "id": number, "caption": f"{text} {number}."})

    def object_lines() -> Iterator[str]:
        for number in range(objects):
            outline = [
                round(rng.random() * 600, 2) for _ in range(rng.randint(8, 2 * OUTLINE_NUMBERS - 8))
            ]
            yield json.dumps(
                {
                    "segmentation": [outline],
                    "area": round(rng.random() * 1e4, 4),
                    "iscrowd": 0,
                    "image_id": number % with_objects + 1,
                    "bbox": outline[:4],
                    "category_id": rng.randint(1, CATEGORIES),
                    "id": number,
                }
            )

    categories: list[dict[str, object]] = [
        {"supercategory": "thing", "id": number, "name": f"thing {number:02d}"}
        for number in range(1, CATEGORIES + 1)
    ]
    annotations = root / "annotations"
    write_annotations(
        annotations / f"captions_{part}2014.json", header, records, caption_lines(), []
    )
    write_annotations(
        annotations / f"instances_{part}2014.json", header, records, object_lines(), categories
    )


def write_annotations(
    file: Path,
    header: dict[str, object],
    images: list[dict[str, object]],
    annotations: Iterator[str],
    categories: list[dict[str, object]],
) -> None:
    """Write a file as COCO does, one list after the other."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(header)[:-1] + ', "images": ' + json.dumps(images))
        stream.write(', "annotations": [')
        for index, line in enumerate(annotations):
            stream.write((", " if index else "") + line)
        stream.write("]")
        if categories:
            stream.write(', "categories": ' + json.dumps(categories))
        stream.write("}")


def measure() -> dict[str, object]:
    """Write the set, load it, and return what was measured."""
    with tempfile.TemporaryDirectory(prefix="coco-json-") as name:
        root = Path(name)
        (root / "annotations").mkdir()
        for part in PARTS:
            write_part(root, part)
        size = sum(file.stat().st_size for file in (root / "annotations").iterdir())
        done = subprocess.run(
            [sys.executable, "-c", LOAD, name], check=True, capture_output=True, text=True
        )
    return {"json_mb": round(size / 1e6, 1), **json.loads(done.stdout)}


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="Write the numbers here.")
    options = parser.parse_args()
    found = measure()
    for key, value in found.items():
        print(f"{key:>16}  {value}")
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
