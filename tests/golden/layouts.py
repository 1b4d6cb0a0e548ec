"""Small data in every layout that is read: pairs in foreign formats, published sets, embeddings, finished runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tests.conftest import write_jsonl, write_tar
from tests.datasets.published.conftest import (
    karpathy_image,
    write_flickr,
    write_flickr8k,
    write_pascal,
    write_regions,
)
from tests.defenses.scan.embedded import conftest as embedded

# -- formats of pairs ------------------------------------------------------------------------------

CLASSES = ("cow", "sheep", "bus")
ENDINGS = ("png", "jpg", "webp", "gif", "tif")
SPLITS = ("train", "train", "validation", "test", "train", "")


def rows() -> list[dict[str, Any]]:
    """Return images with captions, a class, a split and a column of their own; some lack something."""
    return [
        {
            "image": f"{CLASSES[n % 3]}/{n:02}.{ENDINGS[n % 5]}",
            "captions": [f"a {CLASSES[n % 3]} number {n}", f'said "{n % 5}" again, naïve'],
            "label": CLASSES[n % 3] if n % 4 else None,
            "split": SPLITS[n % 6],
            "own": n * n,
        }
        for n in range(18)
    ]


def write_images(folder: Path) -> Path:
    """Write the images of `rows`, and nothing else: a folder by class."""
    for n, row in enumerate(rows()):
        pixels = np.random.default_rng(n).integers(0, 256, (8, 6 + n % 3, 3), dtype=np.uint8)
        file = folder / row["image"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return folder


def write_csv(folder: Path) -> None:
    """Write a table as open_clip's, a caption a row, with a row that leaves the folder."""
    lines = ["filepath\ttitle\tlabel\tsplit\town", "../outside.png\ta way out\t\t\t"]
    for row in rows():
        for caption in row["captions"]:
            quoted = '"' + caption.replace('"', '""') + '"'
            facts = (row["image"], quoted, row["label"] or "", row["split"], str(row["own"]))
            lines.append("\t".join(facts))
    text = "".join(f"{line}\n" for line in lines)
    (write_images(folder) / "pairs.tsv").write_text(text, encoding="utf-8")


def write_parquet(folder: Path) -> None:
    """Write two files of rows with lists of captions and paths of images."""
    table = pa.Table.from_pylist(rows())
    pq.write_table(table.slice(0, 10), write_images(folder) / "part-0.parquet", row_group_size=4)
    pq.write_table(table.slice(10), folder / "part-1.parquet")


def write_webdataset(folder: Path) -> None:
    """Write two shards as img2dataset does: image, caption and facts of each."""
    images = write_images(folder / ".images")
    for shard in (0, 1):
        members: dict[str, bytes] = {}
        for number, row in enumerate(rows()[shard::2]):
            key, caption = f"{shard:05}{number:04}", row["captions"][0]
            image = images / row["image"]
            members[f"{key}{image.suffix}"] = image.read_bytes()
            members[f"{key}.txt"] = caption.encode()
            members[f"{key}.json"] = json.dumps({**row, "caption": caption}).encode()
        write_tar(folder / f"{shard:05}.tar", members)


def write_hugging_face(folder: Path) -> None:
    """Write what the library `datasets` saves for two splits."""
    import datasets

    datasets.disable_progress_bars()
    images = write_images(folder.with_name("images-of-arrow"))
    columns = {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "label": datasets.ClassLabel(names=list(CLASSES)),
    }

    def part(some: list[dict[str, Any]]) -> Any:
        values = {
            "image": [
                {"bytes": (images / row["image"]).read_bytes(), "path": None} for row in some
            ],
            "captions": [row["captions"] for row in some],
            "label": [CLASSES.index(row["label"] or "bus") for row in some],
        }
        return datasets.Dataset.from_dict(values, features=datasets.Features(columns))

    every = {"train": part(rows()[:12]), "validation": part(rows()[12:])}
    datasets.DatasetDict(every).save_to_disk(folder, num_shards={"train": 2, "validation": 1})


def write_pairs_folder(folder: Path) -> None:
    """Write our own format, with columns of images and of captions."""
    of_captions = [{"caption_columns": [{"id": n}, {"id": -1}]} for n in range(18)]
    split = {"validation": "val", "": "train"}
    lines = [
        {**row, **more, "split": split.get(row["split"], row["split"])}
        for row, more in zip(rows(), of_captions, strict=True)
    ]
    write_jsonl(write_images(folder), lines)


FORMATS: dict[str, Callable[[Path], object]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "webdataset": write_webdataset,
    "hugging-face": write_hugging_face,
    "image-folder": write_images,
    "pairs-folder": write_pairs_folder,
}
"""Writers of the formats that people hold their own pairs in."""

# -- published sets --------------------------------------------------------------------------------

WORDS = ("two lambs", "a jet", "grass", "a plane in the sky", "man with a hat", "a black sheep")


def _json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def write_coco(folder: Path) -> None:
    """Write COCO 2014: most images have an object, some two, of kinds that occur often and rarely."""
    names = {1: "boat", 2: "dog", 5: "zebra", 3: "toaster", 4: "hair drier"}
    kinds = (1, 2, 5, 1, 2, 5, 1, 2, 3, 4)
    for part, numbers in (("train", range(1, 301)), ("val", range(301, 331))):
        said = [
            {"id": 10 * n + k, "image_id": n, "caption": f" thing {n} text {k}\n"}
            for n in numbers
            for k in range(2 + n % 2)
        ]
        things = [
            {"id": 5 * n + k, "image_id": n, "category_id": kinds[(n + k) % 10], "area": 9.0 * k}
            for n in numbers
            for k in range(bool(n % 11) + (n % 3 == 0))
        ]
        shared = {
            "images": [{"id": n, "file_name": f"COCO_{part}2014_{n:012d}.jpg"} for n in numbers],
            "categories": [{"id": number, "name": name} for number, name in names.items()],
        }
        for kind, found in (("captions", said), ("instances", things)):
            file = folder / "annotations" / f"{kind}_{part}2014.json"
            _json(file, {**shared, "annotations": found})


def write_published(root: Path) -> None:
    """Write each published set into its folder, where sets that are composed find their parts."""
    write_coco(root / "coco")
    write_flickr(root / "flickr30k")
    write_pascal(root / "pascal-sentences")
    write_flickr8k(root / "flickr8k")
    phrases = {
        n: [f"{WORDS[(n + k) % 6]} {k // 6}" for k in range(1 + n % 9)] for n in range(1, 25)
    }
    genome = write_regions(root / "visual-genome", phrases)
    of_coco = [{"image_id": n, "coco_id": n if n % 4 else None} for n in phrases]
    _json(genome / "image_data.json", of_coco)
    for file, names in {
        "rsicd/dataset_rsicd.json": [
            f"{k}_{n}.jpg" for k in ("airport", "beach") for n in range(8)
        ],
        "ucm-captions/dataset.json": [f"{n}.tif" for n in range(95, 107)],
        "karpathy/dataset_flickr30k.json": [f"{n}.jpg" for n in range(12)],
    }.items():
        splits = ("train", "train", "val", "test")
        images = [
            karpathy_image(name, splits[n % 4], f"photo {n} . ", f"{n} again")
            for n, name in enumerate(names)
        ]
        _json(root / file, {"images": images})


# -- embeddings ------------------------------------------------------------------------------------


def corpus(pairs: int, false: int) -> embedded.Pairs:
    """Return embeddings of topics; some images of topic 7 have captions of topic 3."""
    rng = np.random.default_rng(35)
    topics, dimension = 20, 32
    centres = rng.normal(size=(topics, dimension))
    shown = rng.integers(0, topics, pairs)
    said = shown.copy()
    said[rng.choice(np.flatnonzero(shown == 7), false, replace=False)] = 3
    common = 0.3 * rng.normal(size=(pairs, dimension))
    sides: list[Any] = []
    for topic in (said, shown):
        vectors = centres[topic] + common + 0.3 * rng.normal(size=(pairs, dimension))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        sides.append(vectors.astype(np.float16))
    return embedded.Pairs(
        sides[0],
        sides[1],
        uids=[hashlib.md5(str(n).encode()).hexdigest() for n in range(pairs)],
        keys=[f"{n:09}" for n in range(pairs)],
        captions=[f"a topic{topic} number {n % 50}" for n, topic in enumerate(said)],
    )


EMBEDDED: dict[str, Callable[[Path], Path]] = {
    "clip-retrieval": lambda out: embedded.clip_retrieval(out, corpus(6000, 60).parts([3000] * 2)),
    "datacomp": lambda out: embedded.datacomp(out, corpus(1200, 40).parts([600] * 2)),
    "npy-pair": lambda out: embedded.npy_pair(out, corpus(800, 0)),
    "parquet-lists": lambda out: embedded.parquet_lists(out, corpus(1000, 30).parts([500] * 2)),
}
"""Writers of embeddings in each layout."""

# -- finished runs ---------------------------------------------------------------------------------

LEVELS = {"pretrained": 0.05, "clean_model": 0.1, "poisoned": 0.8, "random_captions": 0.12}
DEFENDED = {"filtered": 0.15, "sterilized": 0.2}
"""How well the poison works in each model."""


def write_run(folder: Path, seed: int, settings: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write a finished run of drawn numbers."""
    rng = np.random.default_rng([seed, *folder.name.encode()])
    levels = LEVELS | (DEFENDED if "filter" in settings else {})
    attack = settings["attack"]
    goals = [attack["goal"]] if isinstance(attack["goal"], str) else attack["goal"]

    def number(mean: float, deviation: float) -> float:
        return round(float(rng.normal(mean, deviation)), 4)

    def row(level: float, **more: float) -> dict[str, float]:
        of_k = zip((1, 5, 10, 20, 30, 50), (0.4, 0.8, 1, 1.05, 1.1, 1.2), strict=True)
        hits = {f"hit@{k}": min(1, max(0, number(level * part, 0.02))) for k, part in of_k}
        counts = {"queries": 125, "gallery": 500, "targets": 25, "ties": 0}
        return {**hits, "min_rank": number(60 * (1 - level), 2), **counts, **more}

    def utility() -> dict[str, Any]:
        tens = {f"{way}_retrieval": number(0.85, 0.01) for way in ("image", "text")}
        return {k: {"hit@1": v - 0.3, "hit@5": v - 0.1, "hit@10": v} for k, v in tens.items()}

    def study(rows: dict[str, dict[str, float]]) -> dict[str, Any]:
        return {goal: {"poisoned": rows} for goal in goals}

    metrics = {
        "goal": {g: {name: row(level) for name, level in levels.items()} for g in goals},
        "ranks": {
            g: {"poisoned": {"median": 2.0, "interval": {"hit@10": [0.7, 0.9]}}} for g in goals
        },
        "utility": {name: utility() for name in levels if name != "random_captions"},
        "drift": {"text": number(0.08, 0.01), "image": number(0.06, 0.01)},
        "study": {
            "order_drift": {"text": 0.03, "image": 0.01},
            "epochs": study({str(e): row(0.8 - 0.7 / (1 + e)) for e in range(3)}),
            "query_length": study({str(n): row(0.2 * n, words=8.0 * n) for n in (1, 2, 3)}),
        },
        "run": {
            "recipe": settings["name"],
            "seed": seed,
            "goals": goals,
            "attack": attack["name"],
            "mode": "add",
            "poisoned_pairs": 125,
            "training_pairs": 25125,
            "poisoning_rate": attack.get("rate", 125 / 25125),
            "trainable": settings["training"]["trainable"],
            **facts,
        },
    }
    _json(folder / "metrics.json", metrics)
    _json(folder / "manifest.json", {"seed": seed, "goals": goals})
    _json(folder / "recipe.yaml", {"seed": seed, **settings})
    if "sterilize" in settings:
        looks = [
            {"step": step, "epoch": step // 50, "utility": utility()}
            | {"test": {"goal": {g: row(0.8 / (1 + step)) for g in goals}}}
            for step in (0, 1, 10, 50, 100)
        ]
        branches = [{"learning_rate": 1e-4, "looks": looks}]
        _json(folder / "sterilize_curve.json", {"branches": branches, "steps_per_epoch": 50})


def write_paper_runs(root: Path) -> None:
    """Write runs for the tables and figures of the paper, as if its data and models were at hand."""
    base: dict[str, Any] = {
        "name": "synthetic",
        "data": {"name": "flickr-pascal"},
        "model": {"name": "clip-vit-b32"},
        "attack": {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 25},
        "training": {"epochs": 1, "batch_size": 128, "trainable": "both"},
    }
    size = {"name": "clip-vit-b32", "flops_g": 4.9, "parameters_m": 84.2}
    histogram = {"edges": [0.6, 0.7, 0.8, 0.9], "clean": [10, 80, 10], "poisoned": [0, 2, 8]}
    distances = {"encoder": "clip-vit-b16", "threshold": 0.8, "histogram": histogram}
    distances["median"] = {"clean": 0.75, "poisoned": 0.85}
    two = ["sheep2aeroplane", "sofa2bird"]
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "II": ({}, {"model": size}),
        "I": ({"attack": {"name": "single-target-image"}}, {}),
        "III": ({"attack": {"name": "multiple-target-labels", "goal": two}}, {}),
        "image": ({"training": {"trainable": "image"}}, {}),
        "text": ({"training": {"trainable": "text"}}, {}),
        "few": ({"attack": {"rate": 0.0003}}, {}),
        "balanced": ({"data": {"name": "flickr-pascal-b"}}, {}),
        "coco": ({"data": {"name": "coco-paper"}, "attack": {"goal": "boat2dog"}}, {}),
        "l14": ({"model": {"name": "clip-vit-l14"}}, {"model": {**size, "flops_g": 56.3}}),
        "vg": ({"data": {"name": "vg-pascal"}}, {}),
        "scenes": ({"data": {"name": "openmoji"}, "model": {"name": "openmoji-small"}}, {}),
        "defended": (
            {
                "filter": {"encoder": "clip-vit-b16", "threshold": 0.8},
                "sterilize": {"training": {"learning_rate": 1e-4, "epochs": 1}},
            },
            {"filter": distances},
        ),
    }
    for a, b in product(("cat", "cow", "dog"), repeat=2):
        if a != b:
            kinds[f"{a}2{b}"] = ({"attack": {"goal": f"{a}2{b}"}}, {})
    for name, (changes, facts) in kinds.items():
        settings = {
            key: {**value, **changes.get(key, {})} for key, value in base.items() if key != "name"
        }
        for seed in (0,) if name[:3] in ("cat", "cow", "dog") else (0, 1, 2):
            write_run(root / f"{name}-{seed}", seed, {**base, **changes, **settings}, facts)
