"""Hands the result of a scan to the tools that use it: DataComp's resharder, and open_clip's loader of training data.

    git clone https://github.com/mlfoundations/datacomp
    python -m venv resharder && resharder/bin/pip install 'webdataset==0.2.31' img2dataset pysimdjson 'cloudpathlib[s3]'
    python benchmarks/bench.py scan_clients --set datacomp=datacomp --set python=resharder/bin/python

`resharder.py` of the copy of DataComp's repository is run as it is, by a Python that has what it imports. open_clip is
the one that is installed here; its training needs `webdataset<=0.2.86`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
from cases.data import add_sample, jpeg_of
from cases.judging import scanned, uid_of, write_datacomp
from harness import Found, clocked
from synthetic_corpus import Corpus

import mmpoison
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError

IN_SHARD, IN_TAR = 5_000, 2_000
LOST = 0.03
"""Share of the pairs that are in no tar, as if their download had failed."""


def scan_clients(
    datacomp: str = "", python: str = sys.executable, pairs: int = 20_000, rate: float = 0.005
) -> Found:
    """The lists of a scan, read by DataComp's resharder, open_clip and webdataset: every pair is compared.

    1. A synthetic corpus with poison in DataComp's layout, and tars in img2dataset's layout: other shards in another
       order, each sample with its uid in the JSON.
    2. `mmpoison scan` of the metadata.
    3. The resharder copies the pairs of `keep.npy`. Out must come the kept pairs that are in the tars, each once, with
       the bytes of its image and caption.
    4. open_clip's loader reads the new tars, as for training and as for evaluation.
    5. open_clip's loader and webdataset's read the old tars through `mmpoison.keep_filter`, without a second copy.

    Every caption ends with the number of its pair, so that 3 to 5 are compared pair by pair. A difference is an error.
    """
    if not (Path(datacomp) / "resharder.py").is_file():
        raise InputError(f"{datacomp or '.'}: has no resharder.py: --set datacomp=REPOSITORY")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        corpus = Corpus(pairs, rate, shard_pairs=IN_SHARD, dimensions=64, topics=40)
        poison = write_datacomp(scratch / "metadata", corpus)
        present = _write_tars(scratch / "tars", pairs)
        found = scanned(scratch / "metadata", scratch / "scan", poison, pairs)
        keep = scratch / "scan" / "keep.npy"
        dropped = set(pq.read_table(scratch / "scan" / "drop.parquet")["uid"].to_pylist())
        stays = [pair for pair in range(pairs) if uid_of(pair) not in dropped]
        listed = [f"{first:016x}{last:016x}" for first, last in np.load(keep).tolist()]
        if listed != sorted(map(uid_of, stays)):
            raise SystemExit(f"{keep}: is not all pairs without those of drop.parquet")
        expected = [pair for pair in stays if pair in present]
        old, new, seconds = scratch / "tars", scratch / "new", {}
        kept = mmpoison.keep_filter(keep)

        def resharded() -> list[int]:
            _reshard(Path(datacomp), python, old, keep, new)
            return _by_webdataset(new, _all)

        readers: dict[str, Callable[[], list[int]]] = {
            "DataComp's resharder": resharded,
            "webdataset, old tars, keep_filter": lambda: _by_webdataset(old, kept),
        }
        for way, tars, chosen in (("new tars", new, _all), ("old tars, keep_filter", old, kept)):
            for purpose in ("training", "evaluation"):
                given = (tars, chosen, len(expected), purpose == "training")
                readers[f"open_clip, {way}, {purpose}"] = lambda given=given: _by_open_clip(*given)
        for name, read in readers.items():
            clock, read_pairs = clocked(read)
            counts, wanted = Counter(read_pairs), Counter(expected)
            if counts != wanted:
                more, fewer = (counts - wanted).total(), (wanted - counts).total()
                raise SystemExit(f"{name}: {more:,} pairs too many, {fewer:,} are missing")
            seconds[name] = float(clock[0])
    about = {"in_tars": len(present), "kept_in_tars": len(expected), "seconds": seconds}
    return found | about | {"poison_read_by_clients": len(poison & set(expected))}


def _write_tars(folder: Path, pairs: int) -> set[int]:
    """Write tars in img2dataset's layout, and return the pairs that are in them."""
    folder.mkdir(parents=True)
    order = generator(0, "scan-clients/tars").permutation(pairs)[: round(pairs * (1 - LOST))]
    for number, start in enumerate(range(0, len(order), IN_TAR)):
        part = order[start : start + IN_TAR].tolist()
        with tarfile.open(folder / f"{number:08d}.tar", "w") as archive:
            for place, pair in enumerate(part):
                key = f"{number:08d}{place:04d}"
                facts = {"uid": uid_of(pair), "key": key, "status": "success"}
                text = f"a photo of pair {pair}".encode()
                members = {"jpg": jpeg_of(pair, 8), "txt": text, "json": json.dumps(facts).encode()}
                add_sample(archive, key, members)
        stats = {"count": len(part), "successes": len(part)}
        (folder / f"{number:08d}_stats.json").write_text(json.dumps(stats))
    return set(order.tolist())


def _by_webdataset(tars: Path, kept: Callable[[Any], bool]) -> list[int]:
    """Read tars with webdataset; image, caption and uid of a sample must be of one pair."""
    import webdataset

    files = [str(file) for file in sorted(tars.glob("*.tar"))]
    found = []
    for sample in webdataset.WebDataset(files, shardshuffle=False).select(kept):
        pair = _pair_of(sample["txt"].decode())
        same = json.loads(sample["json"])["uid"] == uid_of(pair)
        if not same or sample["jpg"] != jpeg_of(pair, 8):
            raise SystemExit(f"{tars}: {sample['__key__']}: image, caption and uid differ")
        found.append(pair)
    return found


def _all(_: Any) -> bool:
    return True


def _pair_of(caption: str) -> int:
    return int(caption.rsplit(" ", 1)[1])


def _reshard(repository: Path, python: str, tars: Path, keep: Path, out: Path) -> None:
    out.mkdir()
    options = ["-i", str(tars), "-o", str(out), "-s", str(keep), "-j", "2"]
    done = subprocess.run(
        # another Python has packages of its own
        [python, "-E", str(repository / "resharder.py"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in re.findall(r"\[(?:WARN|ERROR|FATAL)\]\S* .*", done.stdout):
        print(line)
    if done.returncode:
        raise SystemExit(f"resharder.py: {done.stdout[-2000:]}")


def _by_open_clip(tars: Path, kept: Callable[[Any], bool], samples: int, train: bool) -> list[int]:
    """Read one epoch with open_clip's own loader; for training it must be told how many samples there are."""
    import open_clip_train.data as loader
    import torch
    from open_clip_train.params import parse_args

    urls = f"{tars}/{{{len(list(tars.glob('*.tar'))) - 1:08d}..00000000}}.tar"
    # one worker, and for training one pair a batch: there an epoch repeats pairs to fill its batches
    size = {"batch-size": 1 if train else 100, "workers": 1}
    for part in ("train", "val"):
        size |= {f"{part}-data": urls, f"{part}-num-samples": samples}
    args = parse_args([f"--{name}={value}" for name, value in size.items()])
    args.world_size = 1

    def pixels(image: Any) -> Any:
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.uint8).copy())

    def number(text: str) -> list[Any]:
        return [torch.tensor([_pair_of(text)])]

    complete = loader.filter_no_caption_or_no_image
    both = lambda sample: complete(sample) and kept(sample)  # noqa: E731
    with mock.patch.object(loader, "filter_no_caption_or_no_image", both):
        data = loader.get_wds_dataset(args, pixels, is_train=train, tokenizer=number)
        return [pair for _, texts in data.dataloader for pair in texts.flatten().tolist()]
