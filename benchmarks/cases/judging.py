"""Measures time and memory of judging pairs, and how other tools read the lists of a scan."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cases.data import caption_of, jpeg_of
from harness import Found, alone, clocked, mmpoison, take_turns
from synthetic_corpus import Corpus

from mmpoison.defenses.scan import open_embedded
from mmpoison.defenses.scan.read.vector_shard import distances
from mmpoison.defenses.scan.write.keep_lists import keep_list

# -- the filter --------------------------------------------------------------------------------------------------------

CAPTIONS = 5


def filter(
    encoder: str = "openmoji-mini",
    pairs: int = 1000,
    side: int = 256,
    memory: tuple[int, ...] = (10_000, 100_000),
) -> Found:
    """`mmpoison scan --method relevance-filter` with `openmoji-mini`, five captions per image, images of 256 pixels."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = _filter_speed(_pairs_folder(folder / "pairs", pairs, side), folder, encoder)
        found["peak_gib"] = {}
        for size in memory:
            data = str(_pairs_table(folder / f"table-{size}", size))
            done = alone(filter_whole, data, encoder, f"{name}/kept-{size}")
            assert done["result"] == size
            found["peak_gib"][str(size)] = done["peak_gib"]
    return found


def filter_whole(data: str, encoder: str, out: str) -> int:
    """Scan a set of any size by distance, and count its pairs."""
    import mmpoison

    return mmpoison.scan(data, encoder=encoder, out=out, **BY_DISTANCE).pairs


BY_DISTANCE: dict[str, Any] = {
    **{"method": "relevance-filter", "lose": 0.01, "force": True, "progress": False},
}


def _filter_speed(folder: Path, work: Path, name: str) -> Found:
    """Compare the scan with a loop over pairs, and with the same loop in batches."""
    import torch

    import mmpoison as package
    from mmpoison.datasets import load_pairs
    from mmpoison.images import read_image
    from mmpoison.models import load_encoder

    encoder = load_encoder(name)
    pairs = load_pairs(folder)
    ids = pairs.images.ids[pairs.image]

    def loop(batch: int) -> Any:
        found = []
        for first in range(0, len(pairs), batch):
            rows = slice(first, first + batch)
            pixels = np.stack(
                [read_image(pairs.root, name, encoder.image_size) for name in ids[rows]]
            )
            image = encoder.encode_image(encoder.image_input(pixels))
            text = encoder.encode_text(encoder.tokens(list(pairs.captions[rows])))
            found.append(1 - (image * text).sum(dim=1).numpy())
        return np.concatenate(found)

    def ours() -> Any:
        turn = len(list(work.glob("scan-*")))
        out = work / f"scan-{turn}"
        with mock.patch.dict(os.environ, MMPOISON_CACHE=str(work / f"cache-{turn}")):
            package.scan(folder, encoder=encoder, out=out, **BY_DISTANCE)
        return pq.read_table(out / "scores.parquet")["score"].to_numpy()

    with torch.no_grad():
        loop(64)  # warm
        found, results = take_turns(
            {"ours": ours, "loop": lambda: loop(1), "batches": lambda: loop(128)}
        )
    assert np.abs(results["ours"] - results["loop"]).max() < 1e-4
    return found


def _pairs_folder(folder: Path, pairs: int, side: int) -> Path:
    """A pairs folder in which no caption occurs twice."""
    folder.mkdir()
    lines = []
    for image in range(pairs // CAPTIONS):
        (folder / f"{image:06d}.jpg").write_bytes(jpeg_of(image, side))
        texts = [caption_of(image * CAPTIONS + number) for number in range(CAPTIONS)]
        lines.append(json.dumps({"image": f"{image:06d}.jpg", "captions": texts}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _pairs_table(folder: Path, pairs: int, rows: int = 20_000) -> Path:
    """Parquet files of few small images and a thousand captions, five per row, to measure memory."""
    folder.mkdir()
    images = [jpeg_of(number, 32) for number in range(256)]
    for start in range(0, pairs // CAPTIONS, rows):
        numbers = np.arange(start, min(start + rows, pairs // CAPTIONS))
        texts = [[caption_of((n * CAPTIONS + k) % 1000) for k in range(CAPTIONS)] for n in numbers]
        table = pa.table({"image": [images[n % 256] for n in numbers], "captions": texts})
        pq.write_table(table, folder / f"part-{start:08}.parquet", row_group_size=2_000)
    return folder


# -- embeddings that exist ---------------------------------------------------------------------------------------------

KEPT, WORKERS = 0.3, 2
"""DataComp keeps the best 30% by default."""


def embedded_scan(
    pairs: tuple[int, ...] = (100_000, 1_000_000),
    rate: float = 0.0001,
    favourites: int = 0,
    seed: int = 0,
    dimensions: int = 512,
    goals: int = 1,
    shard_pairs: int = 50_000,
    datacomp: str = "",
) -> Found:
    """Synthetic pairs of 512 float16 numbers per side in DataComp's layout; `mmpoison scan --no-planted --workers 2`.

    More in [Scan my data](tasks/scan-my-data.md#web-data).
    """
    found = {}
    for size in pairs:
        corpus = Corpus(
            size, rate, goals, seed, shard_pairs, dimensions, favourites=bool(favourites)
        )
        with tempfile.TemporaryDirectory() as name:
            poison = write_datacomp(Path(name, "corpus"), corpus)
            row = {"distance": _distance(Path(name, "corpus"))}
            row |= scanned(Path(name, "corpus"), Path(name, "scan"), poison, size)
            if datacomp:
                row["datacomp"] = _beside_datacomp(Path(datacomp), Path(name, "corpus"))
        found[str(size)] = row
    return found


def write_datacomp(folder: Path, corpus: Corpus) -> set[int]:
    """Write a corpus in DataComp's layout, and return which pairs are poison."""
    folder.mkdir(parents=True)
    with ProcessPoolExecutor(WORKERS) as pool:
        shards = range(len(corpus.sizes))
        return set().union(*pool.map(_write_shard, repeat(folder), repeat(corpus), shards))


def _write_shard(folder: Path, corpus: Corpus, number: int) -> set[int]:
    text, image, goal = corpus.shard(number)
    start = number * corpus.shard_pairs
    pairs = range(start, start + corpus.sizes[number])
    stem = str(folder / uid_of(number))
    np.savez(f"{stem}.npz", l14_img=image, l14_txt=text)
    table = {
        "uid": [uid_of(pair) for pair in pairs],
        "url": [f"https://example.org/{pair}.jpg" for pair in pairs],
        "text": [f"a photo of pair {pair}" for pair in pairs],
        "clip_l14_similarity_score": 1 - distances(text, image),
    }
    pq.write_table(pa.table(table), f"{stem}.parquet")
    return set((start + np.flatnonzero(goal >= 0)).tolist())


def uid_of(pair: int) -> str:
    """Return a uid like DataComp's; one in a few thousand begins with several zeros."""
    return hashlib.md5(f"pair {pair}".encode()).hexdigest()


def scanned(folder: Path, out: Path, poison: set[int], pairs: int) -> Found:
    """Scan a corpus as a user does, and compare what is dropped with the truth."""
    command = ["scan", str(folder), "--out", str(out), "--no-planted", "--workers", str(WORKERS)]
    done = alone(mmpoison, *command, OMP_NUM_THREADS="1")
    dropped = set(pq.read_table(out / "drop.parquet")["uid"].to_pylist())
    found = len(dropped.intersection(map(uid_of, poison)))
    timing = {key: done[key] for key in ("seconds", "cpu_seconds", "peak_gib")}
    return {
        "scan": timing | {"pairs_per_second": pairs / done["seconds"]},
        "verdict": json.loads((out / "scan.json").read_text("utf-8"))["verdict"],
        "poison": len(poison),
        "poison_dropped": found,
        "clean_dropped": len(dropped) - found,
    }


def _distance(folder: Path) -> Found:
    """Compare computing the distance with reading the same files, from disk and from memory."""
    files = sorted(folder.glob("*.npz"))
    source = open_embedded(folder, options={"model": "l14"})

    def drop_cache() -> None:
        os.sync()
        for file in files:
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def read() -> None:
        buffer = bytearray(1 << 24)
        for file in files:
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass

    def compute() -> int:
        found = (distances(*shard.vectors()) for shard in source.shards)
        return sum(len(each) for each in found)

    found: Found = {}
    for name, prepare in (("disk", drop_cache), ("memory", read)):
        prepare()
        reading = float(clocked(read)[0][0])
        prepare()
        clock, pairs = clocked(compute)
        rates = {"pairs_per_second": pairs / clock[0], "share_of_reading": reading / clock[0]}
        found[f"from_{name}"] = rates
    return found


def _beside_datacomp(repository: Path, folder: Path) -> Found:
    """Keep the best 30%, by our distances and by DataComp's filter of a stored column, which runs as it is."""
    for name in ("fasttext", "gcld3", "nltk", "nltk.corpus"):
        sys.modules[name] = (
            mock.MagicMock()
        )  # detectors of languages, which this filter does not use
    sys.path.insert(0, str(repository))
    from baselines.apply_filter import load_uids_with_clip_score

    def theirs() -> int:
        uids = load_uids_with_clip_score(str(folder), "l14", None, KEPT, WORKERS)
        uids.sort()
        return len(uids)

    def ours() -> int:
        source = open_embedded(folder, options={"model": "l14"})
        with ProcessPoolExecutor(WORKERS) as pool:
            found = list(pool.map(judged, source.shards))
        cut = np.quantile(np.concatenate([distance for distance, _ in found]), KEPT)
        with tempfile.TemporaryDirectory() as out:
            with keep_list(Path(out), source.id_kind) as keep:
                for shard, (distance, ids) in zip(source.shards, found, strict=True):
                    keep.add(shard.name, ids, distance <= cut)
            return len(np.load(Path(out) / "keep.npy"))

    found, kept = take_turns({"ours": ours, "theirs": theirs})
    return found | {"kept": kept}


def judged(shard: Any) -> Any:
    """Compute the distances of a shard, and read its ids: in another process."""
    return distances(*shard.vectors()), shard.ids()
