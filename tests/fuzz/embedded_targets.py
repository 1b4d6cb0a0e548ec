"""Targets that read embeddings: arrays, archives of arrays, and the tables next to them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tests.embedded import conftest as write
from tests.embedded.conftest import make_pairs
from tests.fuzz.target import Case, Target

from mmpoison.embedded import ShardError, check_shard, open_embedded, write_results
from mmpoison.embedded.keep_lists import keep_filter
from mmpoison.embedded.results import ShardVerdict

PAIRS = make_pairs(40)


def _read(folder: Path) -> None:
    """Everything that a scan does with a source; a shard that is refused is no fault."""
    source = open_embedded(folder, format=folder.name)
    shutil.rmtree(folder / "out", ignore_errors=True)
    with write_results(folder / "out", source) as results:
        for shard in source.shards:
            try:
                facts = check_shard(shard)
                drop = np.arange(facts.rows) % 3 == 0
                shard.image_ids()
                results.add(shard, ShardVerdict(np.zeros(facts.rows), drop))
            except ShardError as error:
                results.fail(shard, str(error))


def _reader(name: str) -> Any:
    return lambda folder: _read(folder / name)


def _datacomp(folder: Path) -> None:
    place = write.datacomp(folder / "datacomp", [PAIRS], sha256=["x", "y"] * 20)
    for ending in ("npz", "parquet"):
        next(place.glob(f"*.{ending}")).rename(place / f"a.{ending}")


def _compressed() -> list[Case]:
    stream = io.BytesIO()
    np.savez_compressed(stream, l14_img=PAIRS.image, l14_txt=PAIRS.text)
    return [{"datacomp/a.npz": stream.getvalue()}]


def _arrays() -> list[Case]:
    stream = io.BytesIO()
    np.save(stream, np.asfortranarray(PAIRS.text.astype(np.float32)))
    return [{"clip-retrieval/text_emb/text_emb_0.npy": stream.getvalue()}]


def _subset(folder: Path) -> None:
    np.save(folder / "keep.npy", np.arange(80, dtype="<u8").view("<u8,<u8"))


def _read_subset(folder: Path) -> None:
    keep = keep_filter(folder / "keep.npy")
    for uid in PAIRS.uids:
        keep({"json": {"uid": uid}})


def targets() -> list[Target]:
    """Every target that reads embeddings."""
    return [
        Target(
            "clip-retrieval",
            lambda folder: write.clip_retrieval(folder / "clip-retrieval", [PAIRS]),
            {
                "clip-retrieval/text_emb/text_emb_0.npy": "npy",
                "clip-retrieval/img_emb/img_emb_0.npy": "npy",
                "clip-retrieval/metadata/metadata_0.parquet": "parquet",
            },
            _reader("clip-retrieval"),
            examples=_arrays,
        ),
        Target(
            "datacomp",
            _datacomp,
            {"datacomp/a.npz": "npz", "datacomp/a.parquet": "parquet"},
            _reader("datacomp"),
            examples=_compressed,
        ),
        Target(
            "parquet-lists",
            lambda folder: write.parquet_lists(folder / "parquet-lists", [PAIRS], group=9),
            {"parquet-lists/part-0.parquet": "parquet"},
            _reader("parquet-lists"),
        ),
        Target("keep-filter", _subset, {"keep.npy": "npy"}, _read_subset),
    ]
