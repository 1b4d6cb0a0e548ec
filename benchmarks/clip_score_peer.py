"""Drops the least matching pairs of a DataComp corpus: from embeddings, next to DataComp's own filter by stored scores.

    git clone https://github.com/mlfoundations/datacomp
    OMP_NUM_THREADS=1 python benchmarks/clip_score_peer.py datacomp --pairs 1000000 --json peer.json

Both read the same shards (`.parquet` and `.npz`), with two workers, and write the same subset file. DataComp's filter
(`baselines/apply_filter.py`, run as it is) reads a column of scores that somebody has computed. Ours computes the
cosines from the embeddings, 2 KB a pair, and so needs no such column and notices one that is wrong. Language
detectors that the file imports and this filter does not use are replaced by empty modules.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_corpus import Corpus

from mmpoison.defenses.filters.passes.distance import DistanceCounts, distances
from mmpoison.embedded import open_embedded
from mmpoison.embedded.keep_lists import keep_list

FRACTION, WORKERS = 0.3, 2
"""DataComp keeps the best 30% by default."""


def write(corpus: Corpus, folder: Path) -> None:
    """Write a corpus in DataComp's layout."""
    for number in range(len(corpus.sizes)):
        text, image, _ = corpus.shard(number)
        cosine = 1 - distances(text, image)
        uids = [f"{number:016x}{row:016x}" for row in range(len(text))]
        table = {
            "uid": uids,
            "url": [f"https://example.org/{number}/{row}.jpg" for row in range(len(text))],
            "text": [f"a caption of pair {row} in shard {number}" for row in range(len(text))],
            "clip_l14_similarity_score": cosine,
        }
        pq.write_table(pa.table(table), folder / f"{number:08}.parquet")
        np.savez(folder / f"{number:08}.npz", l14_img=image, l14_txt=text)


def theirs(repository: Path, folder: Path) -> Any:
    """Run DataComp's filter, and return its sorted uids."""
    for name in ("fasttext", "gcld3", "nltk", "nltk.corpus"):
        sys.modules[name] = ModuleType(name)
    sys.modules["fasttext"].FastText = ModuleType("FastText")  # type: ignore[attr-defined]
    sys.modules["nltk.corpus"].wordnet = None  # type: ignore[attr-defined]
    sys.path.insert(0, str(repository))
    module = importlib.import_module("baselines.apply_filter")
    uids = module.load_uids_with_clip_score(str(folder), "l14", None, FRACTION, WORKERS)
    uids.sort()
    return uids


def measured(shard: Any) -> Any:
    """Compute the distances of a shard, and read its ids."""
    return distances(*shard.vectors()), shard.ids()


def ours(folder: Path, out: Path) -> Any:
    """Filter by computed cosines, and return the subset file."""
    source = open_embedded(folder, options={"model": "l14"})
    with ProcessPoolExecutor(WORKERS) as pool:
        found = list(pool.map(measured, source.shards))
    counted = DistanceCounts.of(np.concatenate([distance for distance, _ in found]))
    cut = counted.loss_cut(1 - FRACTION)
    out.mkdir()
    with keep_list(out, source.id_kind) as keep:
        for shard, (distance, ids) in zip(source.shards, found, strict=True):
            keep.add(shard.name, ids, distance <= cut)
    return np.load(out / "keep.npy")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a corpus, run both, print the rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("repository", type=Path, help="a copy of DataComp's repository")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scratch", type=Path, default=None)
    given = parser.parse_args(arguments)
    result: dict[str, Any] = {"pairs": given.pairs, "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch, "corpus")
        folder.mkdir()
        write(Corpus(given.pairs), folder)
        for turn in range(3):
            for name, run in (
                ("theirs", lambda: theirs(given.repository, folder)),
                ("ours", lambda turn=turn: ours(folder, Path(scratch, f"out-{turn}"))),
            ):
                start = time.perf_counter()
                uids = run()
                seconds = time.perf_counter() - start
                result.setdefault(name, []).append(round(given.pairs / seconds))
                result.setdefault(f"{name} kept", []).append(len(uids))
    text = json.dumps(result, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
