"""Memory and speed of reading large sets in pieces.

    python benchmarks/streaming.py --json streaming.json

Writes synthetic sets of two sizes in Parquet and webdataset shards, reads each with `stream_pairs` in a process of its
own, and reports that process's peak memory: it must not grow with the size. Images are a few bytes, since reading a
table never touches them. The sizes are options; a million pairs in Parquet take about 50 MB of disk, in shards 2 GB.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

IN_FILE = {"parquet": 500_000, "webdataset": 10_000}

READ = """
import json, resource, sys, time
from pathlib import Path
from mmpoison.datasets import stream_pairs
start, pairs, images = time.perf_counter(), 0, 0
for piece in stream_pairs(sys.argv[1], images_at_once=int(sys.argv[2])):
    pairs += len(piece)
    images += len(piece.images)
seconds = time.perf_counter() - start
status = Path("/proc/self/status")
if status.exists():
    # ru_maxrss would count the process that started this one
    line = next(li for li in status.read_text().splitlines() if li.startswith("VmHWM"))
    peak = int(line.split()[1]) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"pairs": pairs, "images": images, "seconds": seconds, "peak_bytes": peak}))
"""


def caption(number: int) -> str:
    """Text of about the length of a caption."""
    return f"a photo of thing number {number} on a hill by the sea in the evening sun"


def write_parquet(folder: Path, pairs: int) -> None:
    """Files with a column of bytes and one of captions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part, start in enumerate(range(0, pairs, IN_FILE["parquet"])):
        numbers = range(start, min(start + IN_FILE["parquet"], pairs))
        table = pa.table(
            {
                "image": pa.array([b"image"] * len(numbers)),
                "caption": pa.array([caption(n) for n in numbers]),
            }
        )
        pq.write_table(table, folder / f"part-{part:05d}.parquet", row_group_size=10_000)


def write_webdataset(folder: Path, pairs: int) -> None:
    """Shards with an image and a caption for each key."""
    for shard, start in enumerate(range(0, pairs, IN_FILE["webdataset"])):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number in range(start, min(start + IN_FILE["webdataset"], pairs)):
                for ending, data in (("jpg", b"image"), ("txt", caption(number).encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


WRITERS = {"parquet": write_parquet, "webdataset": write_webdataset}


def measure(kind: str, pairs: int, images_at_once: int, scratch: Path | None) -> dict[str, Any]:
    """Write a set, read it in another process, and give what that process said."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        start = time.perf_counter()
        WRITERS[kind](Path(name), pairs)
        written = time.perf_counter() - start
        command = [sys.executable, "-c", READ, name, str(images_at_once)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["pairs"] == found["images"] == pairs
    return {
        "pairs": pairs,
        "rss_gib": found["peak_bytes"] / 2**30,
        "pairs_per_second": pairs / found["seconds"],
        "seconds": found["seconds"],
        "writing_seconds": written,
    }


def main() -> None:
    """Measure both formats at one and ten times their size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--parquet-pairs", type=int, default=1_000_000, help="size 1x of Parquet")
    parser.add_argument("--webdataset-pairs", type=int, default=100_000, help="size 1x of shards")
    parser.add_argument("--times", type=int, default=10, help="how much larger the second set is")
    parser.add_argument("--images-at-once", type=int, default=10_000, help="images in a piece")
    parser.add_argument("--scratch", type=Path, help="folder for the synthetic sets")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for kind, pairs in (
        ("parquet", options.parquet_pairs),
        ("webdataset", options.webdataset_pairs),
    ):
        small, large = (
            measure(kind, size, options.images_at_once, options.scratch)
            for size in (pairs, pairs * options.times)
        )
        results[kind] = {
            "pairs_1x": small["pairs"],
            f"pairs_{options.times}x": large["pairs"],
            "rss_gib_1x": small["rss_gib"],
            f"rss_gib_{options.times}x": large["rss_gib"],
            "pairs_per_second": large["pairs_per_second"],
            "runs": [small, large],
        }
        for found in (small, large):
            print(
                f"{kind:<12}{found['pairs']:>12,} pairs  {found['rss_gib']:6.3f} GiB"
                f"{found['pairs_per_second']:>12,.0f} pairs/s",
                flush=True,
            )
    results["images_at_once"] = options.images_at_once
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
