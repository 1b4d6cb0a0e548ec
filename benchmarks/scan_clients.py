"""Hands the result of a scan to the tools that use it: DataComp's resharder, and open_clip's loader of training data.

    git clone https://github.com/mlfoundations/datacomp
    python -m venv resharder && resharder/bin/pip install 'webdataset==0.2.31' img2dataset pysimdjson 'cloudpathlib[s3]'
    python benchmarks/scan_clients.py datacomp --python resharder/bin/python --json clients.json

The first argument is a copy of DataComp's repository; its `resharder.py` is run as it is, by a Python that has what it
imports (`--python`). open_clip is the one that is installed here; its training needs `webdataset<=0.2.86`. The steps:

1. A synthetic corpus with poison in DataComp's layout (`.npz` and `.parquet` a shard, a uid a pair), and tars in
   img2dataset's layout: other shards in another order, each sample with its uid in the JSON. A few pairs are in no tar,
   as if their download had failed.
2. `mmpoison scan` of the metadata.
3. The resharder copies the pairs of `keep.npy`. Out must come the kept pairs that are in the tars, each once, with the
   bytes of its image and caption.
4. open_clip's loader reads the new tars, as for training and as for evaluation.
5. open_clip's loader and webdataset's read the old tars through `mmpoison.keep_filter`, without a second copy.

Every caption ends with the number of its pair, so that 3 to 5 are compared pair by pair, not by counts. Any difference
is an error. The scratch folder takes about 3 KB a pair.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from synthetic_corpus import Corpus

import mmpoison
from mmpoison.base.seeding import generator

IN_SHARD, IN_TAR = 5_000, 2_000
LOST = 0.03
"""Share of the pairs that are in no tar."""


def uid_of(pair: int) -> str:
    """Return a uid as DataComp has them; one of some thousand begins with several zeros."""
    return hashlib.md5(f"pair {pair}".encode()).hexdigest()


def write_metadata(folder: Path, corpus: Corpus) -> list[int]:
    """Write the corpus in DataComp's layout, and return which pairs are poison."""
    folder.mkdir(parents=True)
    poison: list[int] = []
    start = 0
    for number, size in enumerate(corpus.sizes):
        text, image, goal = corpus.shard(number)
        pairs = range(start, start + size)
        stem = hashlib.md5(f"shard {number}".encode()).hexdigest()
        np.savez(folder / f"{stem}.npz", l14_txt=text, l14_img=image)
        cosine = (text.astype(np.float32) * image.astype(np.float32)).sum(axis=1)
        table = {
            "uid": [uid_of(pair) for pair in pairs],
            "url": [f"https://example.org/{pair}.jpg" for pair in pairs],
            "text": [caption_of(pair) for pair in pairs],
            "clip_l14_similarity_score": cosine,
        }
        pq.write_table(pa.table(table), folder / f"{stem}.parquet")
        poison += (start + np.flatnonzero(goal >= 0)).tolist()
        start += size
    return poison


def caption_of(pair: int) -> str:
    """Return a caption that ends with the number of its pair."""
    return f"a photo of pair {pair}"


def jpeg_of(pair: int) -> bytes:
    """Return a small image whose pixels depend on the pair."""
    stream = io.BytesIO()
    pixels = np.full((8, 8, 3), (pair % 256, pair // 256 % 256, 99), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def write_tars(folder: Path, pairs: int) -> list[int]:
    """Write tars in img2dataset's layout, and return the pairs that are in them."""
    folder.mkdir(parents=True)
    order = generator(0, "scan-clients/tars").permutation(pairs)[: round(pairs * (1 - LOST))]
    for number, start in enumerate(range(0, len(order), IN_TAR)):
        part = order[start : start + IN_TAR].tolist()
        with tarfile.open(folder / f"{number:08d}.tar", "w") as archive:
            for place, pair in enumerate(part):
                key = f"{number:08d}{place:04d}"
                facts = {"uid": uid_of(pair), "key": key, "status": "success"}
                members = {
                    "jpg": jpeg_of(pair),
                    "txt": caption_of(pair).encode(),
                    "json": json.dumps(facts).encode(),
                }
                for ending, data in members.items():
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        stats = {"count": len(part), "successes": len(part)}
        (folder / f"{number:08d}_stats.json").write_text(json.dumps(stats))
    return order.tolist()


def tars_of(folder: Path) -> list[str]:
    """List the tars of a folder."""
    return [str(file) for file in sorted(folder.glob("*.tar"))]


def read_tars(folder: Path) -> Iterator[int]:
    """Yield the pairs in tars with Python's `tarfile`; image, caption and uid must be of one pair.

    Raises:
        SystemExit: If they are not.
    """
    for file in tars_of(folder):
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(file) as archive:
            for member in archive:
                key, ending = member.name.split(".", 1)
                stream = archive.extractfile(member)
                assert stream is not None
                samples.setdefault(key, {})[ending] = stream.read()
        for key, sample in samples.items():
            pair = int(sample["txt"].rsplit(b" ", 1)[1])
            same = json.loads(sample["json"])["uid"] == uid_of(pair)
            if not same or sample["jpg"] != jpeg_of(pair):
                raise SystemExit(f"{file}: {key}: image, caption and uid are not of one pair")
            yield pair


def scan(metadata: Path, out: Path) -> dict[str, Any]:
    """Run `mmpoison scan` as a user does, and return its `scan.json`."""
    command = ["scan", str(metadata), "--out", str(out), "--json", "--no-planted"]
    done = subprocess.run(
        [sys.executable, "-m", "mmpoison", *command], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def reshard(repository: Path, python: str, tars: Path, keep: Path, out: Path) -> list[str]:
    """Run DataComp's resharder, and return what it logged."""
    out.mkdir()
    options = ["-i", str(tars), "-o", str(out), "-s", str(keep), "-j", "2"]
    # another Python has packages of its own
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, str(repository / "resharder.py"), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"resharder.py: {done.stdout[-2000:]}")
    return [
        " ".join(found) for found in re.findall(r"\[(INFO|WARN|ERROR|FATAL)\]\S* (.*)", done.stdout)
    ]


def by_open_clip(tars: Path, samples: int, *, train: bool) -> list[int]:
    """Read tars with open_clip's own loader, one epoch, and return the pairs.

    Args:
        tars: The folder.
        samples: How many there are; for training open_clip must be told.
        train: Whether as for training, else as for evaluation.
    """
    import torch
    from open_clip_train.data import get_wds_dataset

    urls = f"{tars}/{{{len(tars_of(tars)) - 1:08d}..00000000}}.tar"
    args = SimpleNamespace(
        train_data=urls,
        val_data=urls,
        train_num_samples=samples,
        val_num_samples=samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        # one worker, and for training one pair a batch: there an epoch repeats pairs to fill its batches
        batch_size=1 if train else 100,
        workers=1,
        world_size=1,
        seed=0,
    )

    def number(text: str) -> torch.Tensor:
        return torch.tensor([int(text.rsplit(" ", 1)[1])])

    def pixels(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.uint8).copy())

    data = get_wds_dataset(args, pixels, is_train=train, tokenizer=lambda text: [number(text)])
    return [pair for _, texts in data.dataloader for pair in texts.flatten().tolist()]


def by_open_clip_kept(tars: Path, keep: Path, samples: int, *, train: bool) -> list[int]:
    """Read the old tars with open_clip's own loader through `keep_filter`."""
    import open_clip_train.data as data

    complete, kept = data.filter_no_caption_or_no_image, mmpoison.keep_filter(keep)
    data.filter_no_caption_or_no_image = lambda sample: complete(sample) and kept(sample)
    try:
        return by_open_clip(tars, samples, train=train)
    finally:
        data.filter_no_caption_or_no_image = complete


def by_webdataset(tars: Path, keep: Path) -> list[int]:
    """Read the old tars with webdataset through `keep_filter`."""
    import webdataset

    dataset = webdataset.WebDataset(tars_of(tars), shardshuffle=False)
    kept = dataset.select(mmpoison.keep_filter(keep))
    return [int(sample["txt"].rsplit(b" ", 1)[1]) for sample in kept]


def compare(name: str, found: Iterable[int], expected: list[int]) -> None:
    """Stop unless two lists have the same pairs, each as often.

    Raises:
        SystemExit: If they have not.
    """
    counts, wanted = Counter(found), Counter(expected)
    if counts != wanted:
        more, fewer = counts - wanted, wanted - counts
        raise SystemExit(f"{name}: {more.total():,} pairs too many, {fewer.total():,} are missing")


def measure(
    repository: Path, python: str, scratch: Path, pairs: int, rate: float
) -> dict[str, Any]:
    """Do all steps, and return what was found and how long each client took."""
    corpus = Corpus(pairs, rate, shard_pairs=IN_SHARD, dimensions=64, topics=40)
    poison = write_metadata(scratch / "metadata", corpus)
    downloaded = write_tars(scratch / "tars", pairs)
    verdict = scan(scratch / "metadata", scratch / "scan")
    keep = scratch / "scan" / "keep.npy"
    dropped = set(pq.read_table(scratch / "scan" / "drop.parquet")["id"].to_pylist())
    stays = [pair for pair in range(pairs) if uid_of(pair) not in dropped]
    listed = [f"{first:016x}{last:016x}" for first, last in np.load(keep).tolist()]
    if listed != sorted(uid_of(pair) for pair in stays):
        raise SystemExit(f"{keep}: is not all pairs without those of drop.parquet")
    present = set(downloaded)
    expected = [pair for pair in stays if pair in present]
    seconds = {}

    def timed(name: str, call: Callable[[], list[int]]) -> None:
        start = time.perf_counter()
        found = call()
        seconds[name] = round(time.perf_counter() - start, 1)
        compare(name, found, expected)
        print(f"{name}: {len(found):,} pairs, the expected ones ({seconds[name]} s)", flush=True)

    new, old = scratch / "resharded", scratch / "tars"
    log: list[str] = []

    def resharded() -> list[int]:
        log.extend(reshard(repository, python, old, keep, new))
        return list(read_tars(new))

    count = len(expected)
    timed("DataComp's resharder", resharded)
    timed("open_clip, new tars, training", lambda: by_open_clip(new, count, train=True))
    timed("open_clip, new tars, evaluation", lambda: by_open_clip(new, count, train=False))
    timed(
        "open_clip, old tars, keep_filter, training",
        lambda: by_open_clip_kept(old, keep, count, train=True),
    )
    timed(
        "open_clip, old tars, keep_filter, evaluation",
        lambda: by_open_clip_kept(old, keep, count, train=False),
    )
    timed("webdataset, old tars, keep_filter", lambda: by_webdataset(old, keep))
    return {
        "pairs": pairs,
        "in_tars": len(downloaded),
        "poison": len(poison),
        "poison_in_tars": len(set(poison) & present),
        "verdict": verdict["verdict"],
        "dropped": len(dropped),
        "poison_dropped": sum(uid_of(pair) in dropped for pair in poison),
        "kept_in_tars": count,
        "poison_read_by_clients": len(set(poison) & set(expected)),
        "seconds": seconds,
        "resharder_log": log,
    }


def main() -> None:
    """Read the options, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("repository", type=Path, help="a copy of DataComp's repository")
    parser.add_argument(
        "--python", default=sys.executable, help="a Python that can run resharder.py"
    )
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=0.005, help="poisoning rate, a share")
    parser.add_argument(
        "--scratch", type=Path, help="folder that stays; by default a temporary one"
    )
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    if not (options.repository / "resharder.py").is_file():
        parser.error(
            f"{options.repository}: has no resharder.py: give a copy of DataComp's repository"
        )
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        result = measure(options.repository, options.python, scratch, options.pairs, options.rate)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
