"""Speed, memory and recall of the passes over shards, on synthetic corpora of several sizes.

    OMP_NUM_THREADS=1 python benchmarks/embedded_scan.py --pairs 100000 --pairs 1000000 --json scan.json
    OMP_NUM_THREADS=1 python benchmarks/embedded_scan.py --clean 5 --pairs 100000 --pairs 1000000 --json clean.json

Shards are written to a scratch folder first (2 KB a pair) and are memory-mapped by the passes; writing is not timed.
The distance is compared with reading the same files, from the disk (the page cache is dropped for them) and from
memory, in the same run. The memory is that of the process without the mapped files. On a busy machine
read the CPU seconds: two free cores do two in a second. With `--clean N`, N seeds of clean corpora of each
kind are scanned in place of poisoned ones: how often is a group named?
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mmpoison.defenses.filters.passes.groups.loop import ShardScan, scan_shards
from synthetic_corpus import Corpus

from mmpoison.defenses.filters.passes.distance import DistanceCounts, distances
from mmpoison.defenses.filters.passes.groups.shard import VectorShard

RATES = (0.00001, 0.0001, 0.001)
NAMED = 0.01
"""A group is named from this share of false alarms on, by default."""

PASSES = ("sample", "sums", "counts", "gather", "score")


class Memory(threading.Thread):
    """Watches the memory of this process that is not of files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.start()

    def run(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]) * 1024)
            time.sleep(0.05)


class Files:
    """A corpus on the disk."""

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        self.sizes, self.folder = corpus.sizes, folder
        goals = []
        for number in range(len(self.sizes)):
            text, image, goal = corpus.shard(number)
            for name, array in (("text", text), ("image", image)):
                with (folder / f"{name}{number}.npy").open("wb") as file:
                    np.save(file, array)
                    file.flush()
                    os.fsync(file.fileno())
            goals.append(goal)
        self.goal = np.concatenate(goals)

    def shard(self, number: int) -> VectorShard:
        text, image = (
            np.load(self.folder / f"{name}{number}.npy", mmap_mode="r")
            for name in ("text", "image")
        )
        return VectorShard(number, text, image)

    def drop_cache(self) -> None:
        for file in self.folder.glob("*.npy"):
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def read(self) -> None:
        buffer = bytearray(1 << 24)
        for file in sorted(self.folder.glob("*.npy")):
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_distance(files: Files, threads: int) -> dict[str, float]:
    """Measure pairs per second of the distance, and what share of reading that is."""

    def all_distances() -> None:
        counts = DistanceCounts.of(np.empty(0))
        for number in range(len(files.sizes)):
            shard = files.shard(number)
            counts = counts.merge(
                DistanceCounts.of(distances(shard.text, shard.image, threads=threads))
            )

    pairs = sum(files.sizes)
    files.drop_cache()
    disk = seconds(files.read)
    files.drop_cache()
    cold = seconds(all_distances)
    memory, warm = seconds(files.read), seconds(all_distances)
    busy = cpu_seconds(all_distances)
    return {
        "pairs_per_second_from_disk": pairs / cold,
        "share_of_disk_bandwidth": disk / cold,
        "pairs_per_second_cached": pairs / warm,
        "share_of_cached_bandwidth": memory / warm,
        "pairs_per_cpu_second": pairs / busy,
    }


def timed_scan(files: Files, threads: int, seed: int) -> tuple[ShardScan, dict[str, float]]:
    """Scan, and return the pairs per second of each pass and of all."""
    spent: list[float] = []
    cpu: list[float] = []
    with ThreadPoolExecutor(threads) as pool:

        def every(part: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
            start, busy = time.perf_counter(), time.process_time()
            yield from pool.map(part, tasks)
            spent.append(time.perf_counter() - start)
            cpu.append(time.process_time() - busy)

        start, busy = time.perf_counter(), time.process_time()
        found = scan_shards(files.sizes, files.shard, seed=seed, map_parts=every)
        total, cpu_total = time.perf_counter() - start, time.process_time() - busy
    timing = {}
    for unit, values, whole in (("", spent, total), ("cpu_", cpu, cpu_total)):
        for name, value in zip(PASSES, values, strict=True):
            timing[f"{name}_{unit}seconds"] = round(value, 2)
        timing[f"fits_{unit}seconds"] = round(whole - sum(values), 2)
        timing[f"{unit}seconds"] = round(whole, 2)
        timing[f"pairs_per_{unit}second"] = round(found.pairs / whole)
    return found, timing


def recall(found: ShardScan, files: Files) -> dict[str, Any]:
    """Return what share of the poison is in named groups, and among the highest scores."""
    bad = files.goal >= 0
    starts = np.concatenate([[0], np.cumsum(files.sizes)])
    named = np.zeros(len(bad), dtype=bool)
    groups = []
    for group in found.groups:
        rows = np.concatenate([starts[number] + row for number, row in group.rows.items()])
        if group.false_alarms <= NAMED:
            named[rows] = True
        groups.append(
            {
                "pairs": len(group),
                "poison": int(bad[rows].sum()),
                "score": round(group.score, 2),
                "false_alarms": round(group.false_alarms, 4),
            }
        )
    score = np.concatenate(found.scores)
    highest = score >= np.quantile(score, 1 - 0.001)
    return {
        "poison": int(bad.sum()),
        "named_groups": sum(group["false_alarms"] <= NAMED for group in groups),
        "recall": float(named[bad].mean()) if bad.any() else None,
        "clean_pairs_in_named_groups": int(named[~bad].sum()),
        "recall_of_highest_0.1%": float(highest[bad].mean()) if bad.any() else None,
        "groups": groups[:5],
    }


def main() -> None:
    """Measure, print a line a corpus, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--pairs", type=int, action="append", help="sizes; 0.1 and 1 million")
    parser.add_argument("--rate", type=float, action="append", help=f"poisoning rates; {RATES}")
    parser.add_argument("--clean", type=int, default=0, help="seeds of clean corpora instead")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="folder for the shards")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    options = parser.parse_args()
    corpora = [
        (Corpus(pairs, rate, seed=options.first_seed), {"kind": "poisoned"})
        for pairs in options.pairs or (100_000, 1_000_000)
        for rate in options.rate or RATES
    ]
    if options.clean:
        corpora = [
            (Corpus(pairs, seed=seed, favourites=kind == "favourites"), {"kind": kind})
            for pairs in options.pairs or (100_000, 1_000_000)
            for seed in range(options.first_seed, options.first_seed + options.clean)
            for kind in ("independent", "favourites")
        ]
    memory, results = Memory(), []
    for corpus, about in corpora:
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            files = Files(corpus, Path(name))
            memory.peak = 0
            row: dict[str, Any] = {**about, "pairs": corpus.pairs, "rate": corpus.rate}
            row |= {"seed": corpus.seed, "threads": options.threads}
            found, timing = timed_scan(files, options.threads, corpus.seed)
            row |= timing | {"peak_gib": round(memory.peak / 2**30, 3)} | recall(found, files)
            if not options.clean:
                row |= {"distance": measure_distance(files, options.threads)}
        results.append(row)
        print(json.dumps(row), flush=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
