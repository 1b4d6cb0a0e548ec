"""Speed and memory of the relevance filter.

    python benchmarks/filter.py --json filter.json

Speed: pairs per second of the scan against the plain loop over pairs (each pair's image opened and embedded, its
caption tokenised and embedded, one after the other) with the same encoder, in one run, on images with five captions. A
second figure is against the same loop in batches, which shows what embedding each image once is worth by itself.

Memory: the whole filter on a synthetic Parquet table of 10,000 and of 1,000,000 pairs, each in a process of its own:
the peak must not grow. Its images are small and its captions are drawn from a thousand, since memory is what is
measured.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CAPTIONS = 5

FILTER = """
import json, sys, time
from pathlib import Path
from mmpoison.defenses import filter_pairs
from mmpoison.models import load_encoder
start = time.perf_counter()
judge = load_encoder(sys.argv[2])
done = filter_pairs(sys.argv[1], judge, out=sys.argv[3], automatic=True, force=True, images="none")
line = next(li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("VmHWM"))
print(json.dumps({
    "pairs": len(done.keep), "seconds": time.perf_counter() - start,
    "peak_bytes": int(line.split()[1]) * 1024,
}))
"""


def picture(number: int, side: int) -> bytes:
    """A JPEG of a few coloured blocks."""
    import numpy as np
    from PIL import Image

    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


def caption(number: int) -> str:
    """Text of about the length of a caption."""
    return f"a photo of thing number {number} on a hill by the sea in the evening sun"


def write_folder(folder: Path, pairs: int, side: int) -> None:
    """A pairs folder in which no caption occurs twice."""
    folder.mkdir()
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as stream:
        for image in range(pairs // CAPTIONS):
            (folder / f"{image:06d}.jpg").write_bytes(picture(image, side))
            texts = [caption(image * CAPTIONS + n) for n in range(CAPTIONS)]
            stream.write(json.dumps({"image": f"{image:06d}.jpg", "captions": texts}) + "\n")


def write_table(folder: Path, pairs: int) -> None:
    """Parquet files with bytes of images and five captions a row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    images = [picture(number, 32) for number in range(256)]
    rows = 20_000
    for part, start in enumerate(range(0, pairs // CAPTIONS, rows)):
        numbers = range(start, min(start + rows, pairs // CAPTIONS))
        table = pa.table(
            {
                "image": pa.array([images[n % len(images)] for n in numbers]),
                "captions": pa.array(
                    [[caption((n * CAPTIONS + k) % 1000) for k in range(CAPTIONS)] for n in numbers]
                ),
            }
        )
        pq.write_table(table, folder / f"part-{part:05d}.parquet", row_group_size=2_000)


def measure_speed(folder: Path, work: Path, encoder_name: str) -> dict[str, float]:
    """Pairs per second of the loop, of the loop in batches, and of the scan."""
    import numpy as np
    import torch

    from mmpoison.datasets import load_pairs
    from mmpoison.defenses import RelevanceFilter
    from mmpoison.defenses.filters.distance_scan import images_at_once, scan_pairs
    from mmpoison.defenses.filters.pair_pieces import PairPieces
    from mmpoison.images import read_image
    from mmpoison.models import load_encoder

    encoder = load_encoder(encoder_name)
    size = encoder.image_size
    pairs = load_pairs(folder)
    ids = pairs.images.ids[pairs.image]

    def loop(batch: int) -> tuple[float, np.ndarray[Any, Any]]:
        start, found = time.perf_counter(), []
        with torch.no_grad():
            for first in range(0, len(pairs), batch):
                rows = slice(first, first + batch)
                pixels = np.stack([read_image(pairs.root, name, size) for name in ids[rows]])
                image = encoder.encode_image(encoder.image_input(pixels))
                text = encoder.encode_text(encoder.tokens(list(pairs.captions[rows])))
                found.append(1 - (image * text).sum(dim=1).numpy())
        return len(pairs) / (time.perf_counter() - start), np.concatenate(found)

    loop(64)  # warm
    plain, expected = loop(1)
    batched, _ = loop(128)
    start = time.perf_counter()
    pieces = PairPieces(folder, images_at_once=images_at_once(size))
    scan = scan_pairs(pieces, encoder, RelevanceFilter(threshold=0.8), work=work)
    speed = len(pairs) / (time.perf_counter() - start)
    assert np.abs(scan.scores - expected).max() < 1e-4
    return {
        "pairs_per_second_loop": plain,
        "pairs_per_second_loop_in_batches": batched,
        "pairs_per_second": speed,
        "ratio": speed / plain,
        "ratio_to_batches": speed / batched,
    }


def measure_memory(folder: Path, pairs: int, encoder: str, work: Path) -> dict[str, Any]:
    """Filter a table in another process, and give what that process said."""
    import os

    write_table(folder, pairs)
    command = [sys.executable, "-c", FILTER, str(folder), encoder, str(work / f"kept-{pairs}")]
    environment = {**os.environ, "MMPOISON_CACHE": str(work / f"cache-{pairs}")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["pairs"] == pairs
    return found


def main() -> None:
    """Measure speed, then memory at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--encoder", default="openmoji-mini", help="the judge")
    parser.add_argument("--pairs", type=int, default=5_000, help="pairs for the speed")
    parser.add_argument("--side", type=int, default=256, help="side of their images in pixels")
    parser.add_argument("--small", type=int, default=10_000, help="pairs of the small table")
    parser.add_argument("--large", type=int, default=1_000_000, help="pairs of the large table")
    parser.add_argument("--scratch", type=Path, help="folder for the synthetic sets")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        work = Path(name)
        write_folder(work / "folder", options.pairs, options.side)
        results: dict[str, Any] = measure_speed(
            work / "folder", work / "distances", options.encoder
        )
        print(
            f"{results['pairs_per_second']:,.0f} pairs/s: {results['ratio']:.1f} x the loop over pairs, "
            f"{results['ratio_to_batches']:.1f} x the loop in batches",
            flush=True,
        )
        for size, key in ((options.small, "rss_gib_10k"), (options.large, "rss_gib_1m")):
            found = measure_memory(work / f"table-{size}", size, options.encoder, work)
            results[key] = found["peak_bytes"] / 2**30
            results[f"{key}_run"] = found
            print(
                f"{size:>10,} pairs  {results[key]:.3f} GiB  {size / found['seconds']:,.0f} pairs/s",
                flush=True,
            )
    results["encoder"] = options.encoder
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
