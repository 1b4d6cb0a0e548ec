"""Measures time and memory of reading data, and the time of computing ranks."""

from __future__ import annotations

import io
import json
import random
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from harness import Found, alone, take_turns

# -- large sets in pieces ----------------------------------------------------------------------------------------------


def caption_of(number: int) -> str:
    """Return a text of about the length of a caption."""
    return f"a photo of thing number {number} on a hill by the sea in the evening sun"


def add_sample(archive: tarfile.TarFile, key: str, members: dict[str, bytes]) -> None:
    """Add a sample to a webdataset shard, by the extensions of its files."""
    for ending, data in members.items():
        member = tarfile.TarInfo(f"{key}.{ending}")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def streaming(
    parquet: tuple[int, ...] = (1_000_000, 10_000_000),
    webdataset: tuple[int, ...] = (100_000, 1_000_000),
) -> Found:
    """Memory and speed of `stream_pairs`: the peak of its process must not grow with the size of the set.

    Images are a few bytes, since reading a table never touches them; a million pairs in shards take 2 GB.
    """
    found: Found = {}
    for write, sizes in ((_write_parquet, parquet), (_write_webdataset, webdataset)):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder), size)
                done = alone(stream, folder)
            assert done["result"] == [size, size]
            row = {"peak_gib": done["peak_gib"], "pairs_per_second": size / done["seconds"]}
            found[f"{write.__name__.removeprefix('_write_')}.{size}"] = row
    return found


def stream(folder: str) -> list[int]:
    """Read a set in pieces of 10,000 images, and count pairs and images."""
    from mmpoison.datasets import stream_pairs

    counts = [(len(one), len(one.images)) for one in stream_pairs(folder, images_at_once=10_000)]
    return np.sum(counts, axis=0).tolist()


def _write_parquet(folder: Path, pairs: int, rows: int = 500_000) -> None:
    import pyarrow as pa  # not for the process whose memory is measured
    import pyarrow.parquet as pq

    for start in range(0, pairs, rows):
        captions = [caption_of(number) for number in range(start, min(start + rows, pairs))]
        table = pa.table({"image": pa.array([b"image"] * len(captions)), "caption": captions})
        pq.write_table(table, folder / f"{start:09}.parquet", row_group_size=10_000)


def _write_webdataset(folder: Path, pairs: int, rows: int = 10_000) -> None:
    for start in range(0, pairs, rows):
        with tarfile.open(folder / f"{start:09}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in range(start, min(start + rows, pairs)):
                members = {"jpg": b"image", "txt": caption_of(number).encode()}
                add_sample(archive, f"{number:09}", members)


# -- COCO --------------------------------------------------------------------------------------------------------------

# the counts of COCO 2014: images, images with objects, objects, captions
PARTS = {"train": (82_783, 82_081, 604_907, 414_113), "val": (40_504, 40_137, 291_875, 202_654)}
CATEGORIES = 80
OUTLINE_NUMBERS = 46  # of an object, on average, so that the files are as large as COCO's
WORDS = "a the man dog sits on in near street table red small with"


def coco_json(share: float = 1.0) -> Found:
    """Synthetic files of COCO 2014's size, train and val together, labelled by a random object, as in the paper."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "annotations").mkdir()
        for part, counts in PARTS.items():
            _write_coco(Path(name), part, *(round(share * count) for count in counts))
        size = sum(file.stat().st_size for file in Path(name, "annotations").iterdir())
        done = alone(load_2014, name)
    return done.pop("result") | done | {"json_mb": size / 1e6}


def load_2014(root: str) -> Found:
    """Load the synthetic set."""
    from mmpoison.datasets.published.coco import load_coco

    pairs = load_coco(Path(root), year=2014, parts="both", splits="paper", drop_classes=())
    return {"pairs": len(pairs), "images": len(pairs.images), "classes": len(pairs.classes)}


def _write_coco(
    root: Path, part: str, images: int, with_objects: int, objects: int, captions: int
) -> None:
    """Write the two files of one part, outlines, boxes and all, and an empty file for each of its images."""
    rng = random.Random(part)
    folder = root / f"{part}2014"
    folder.mkdir()
    names = [f"COCO_{part}2014_{number:012d}.jpg" for number in range(1, images + 1)]
    for name in names:
        (folder / name).touch()
    common = {"license": 1, "height": 480, "width": 640, "date_captured": "2013-11-14 17:02:52"}
    images_of = "http://images.cocodataset.org"
    farm = "http://farm7.staticflickr.com/6116"
    records = [
        {
            **common,
            "id": number,
            "file_name": name,
            "coco_url": f"{images_of}/{part}2014/{name}",
            "flickr_url": f"{farm}/{number:010d}_da26cf2c9e_z.jpg",
        }
        for number, name in enumerate(names, 1)
    ]

    def caption(number: int) -> Found:
        text = f"{' '.join(rng.choices(WORDS.split(), k=11))} {number}."
        return {"image_id": number % images + 1, "id": number, "caption": text}

    def an_object(number: int) -> Found:
        numbers = rng.randint(8, 2 * OUTLINE_NUMBERS - 8)
        outline = [round(rng.random() * 600, 2) for _ in range(numbers)]
        return {
            "segmentation": [outline],
            "area": round(rng.random() * 1e4, 4),
            "iscrowd": 0,
            "image_id": number % with_objects + 1,
            "bbox": outline[:4],
            "category_id": rng.randint(1, CATEGORIES),
            "id": number,
        }

    kinds = [
        {"supercategory": "thing", "id": number, "name": f"thing {number:02d}"}
        for number in range(1, CATEGORIES + 1)
    ]
    for name, lines, more in (
        ("captions", map(caption, range(captions)), {}),
        ("instances", map(an_object, range(objects)), {"categories": kinds}),
    ):
        lists = {"images": records, "annotations": lines, **more}
        _write_lists(root / "annotations" / f"{name}_{part}2014.json", lists)


def _write_lists(file: Path, lists: dict[str, Iterable[Any]]) -> None:
    """Write a file as COCO does, one list after another."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write('{"info": {"description": "made", "year": 2014}')
        for name, lines in lists.items():
            stream.write(f', "{name}": [')
            for index, line in enumerate(lines):
                stream.write((", " if index else "") + json.dumps(line))
            stream.write("]")
        stream.write("}")


# -- ranks -------------------------------------------------------------------------------------------------------------


def ranks(queries: int = 1000, gallery: int = 100_000, targets: int = 1000) -> Found:
    """Ranks by `target_ranks`, which sorts nothing, next to `np.argsort` and a search for the first target.

    Results are checked to be equal: on these similarities for every query whose best target does not tie (sorting
    gives ties any order), and on similarities rounded to two digits, where nearly every query ties, with a stable sort
    that has the targets behind the others, which is the tie rule.
    """
    from mmpoison.metrics import target_ranks, tie_count

    similarity, mask = _similarities(queries, gallery, targets)

    def one_search(kind: Any = None) -> list[int]:
        return [int(mask[np.argsort(-scores, kind=kind)].argmax()) for scores in similarity]

    ways = {"ours": lambda: target_ranks(similarity, mask), "one_search": one_search}
    found, results = take_turns(ways)
    clear = np.array([tie_count(scores[None], mask) == 0 for scores in similarity])
    assert (results["ours"] == results["one_search"])[clear].all()
    np.round(similarity, 2, out=similarity)
    assert target_ranks(similarity, mask).tolist() == one_search("stable")
    alone_ = alone(ranks_alone, queries, gallery, targets)
    assert alone_["result"] == int(results["ours"].sum())
    return found | {"peak_gib": alone_["peak_gib"], "queries_without_a_tie": int(clear.sum())}


def ranks_alone(*sizes: int) -> int:
    """Only make similarities and compute ranks; return their sum."""
    from mmpoison.metrics import target_ranks

    return int(target_ranks(*_similarities(*sizes)).sum())


def _similarities(queries: int, gallery: int, targets: int) -> tuple[Any, Any]:
    """Random similarities, shape `(queries, gallery)`, float32, and the target mask, `(gallery,)`: the last images."""
    rng = np.random.default_rng(0)
    units = [rng.standard_normal((count, 64), dtype=np.float32) for count in (queries, gallery)]
    for rows in units:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return units[0] @ units[1].T, np.arange(gallery) >= gallery - targets


def jpeg_of(number: int, side: int) -> bytes:
    """Return a JPEG of a few coloured blocks."""
    from PIL import Image

    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC)
    picture.save(stream, "JPEG")
    return stream.getvalue()
