"""Small sources of embeddings, each written as its own tool writes it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Half = npt.NDArray[np.float16]
DIMENSION = 16


@dataclass(frozen=True)
class Pairs:
    """Pairs of unit embeddings that belong together, with a uid, a key and a caption each."""

    text: Half
    image: Half
    uids: list[str]
    keys: list[str]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.uids)

    def part(self, rows: slice) -> Pairs:
        return Pairs(
            self.text[rows], self.image[rows], self.uids[rows], self.keys[rows], self.captions[rows]
        )

    def parts(self, sizes: Sequence[int]) -> list[Pairs]:
        ends = np.cumsum([0, *sizes])
        return [self.part(slice(a, b)) for a, b in pairwise(ends)]

    @property
    def cosine(self) -> npt.NDArray[np.float64]:
        text, image = self.text.astype(np.float64), self.image.astype(np.float64)
        with np.errstate(all="ignore"):
            norms = np.linalg.norm(text, axis=1) * np.linalg.norm(image, axis=1)
            return np.asarray((text * image).sum(axis=1) / norms)


def make_pairs(count: int, seed: int = 0, dimension: int = DIMENSION) -> Pairs:
    rng = np.random.default_rng(seed)
    meant = rng.normal(size=(count, dimension))
    sides = [meant + 0.6 * rng.normal(size=meant.shape) for _ in range(2)]
    text, image = (
        (side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float16) for side in sides
    )
    return Pairs(
        text,
        image,
        [hashlib.md5(f"{seed}/{n}".encode()).hexdigest() for n in range(count)],
        [f"{n // 100:05d}{n % 100:04d}" for n in range(count)],
        [f"caption {n}" for n in range(count)],
    )


def subset(uids: Iterable[str]) -> list[tuple[int, int]]:
    """The rule by which DataComp's resharder finds a uid, with Python's numbers."""
    return sorted({divmod(int(uid, 16), 2**64) for uid in uids})


def clip_retrieval(folder: Path, parts: Sequence[Pairs]) -> Path:
    """As `clip-retrieval inference` writes it: padded to floor(log10(partitions)) + 1 digits."""
    digits = int(math.log10(len(parts))) + 1
    for number, part in enumerate(parts):
        name = f"{number:0{digits}d}"
        for kind, array in (("img", part.image), ("text", part.text)):
            place = folder / f"{kind}_emb"
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{kind}_emb_{name}.npy", array)
        (folder / "metadata").mkdir(exist_ok=True)
        table = pa.table(
            {
                "image_path": part.keys,
                "caption": part.captions,
                "url": [f"http://x/{k}" for k in part.keys],
            }
        )
        pq.write_table(table, folder / "metadata" / f"metadata_{name}.parquet")
    return folder


def datacomp(
    folder: Path,
    parts: Sequence[Pairs],
    models: Sequence[str] = ("b32", "l14"),
    **more: Sequence[Any],
) -> Path:
    """As DataComp has it: the embeddings of b32 are those of l14 turned round, so that a mix-up is seen."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        arrays = {}
        for model in models:
            step = -1 if model == "b32" else 1
            arrays[f"{model}_img"] = part.image[:, ::step]
            arrays[f"{model}_txt"] = part.text[:, ::step]
        stem = hashlib.md5(str(number).encode()).hexdigest()
        save: Any = np.savez
        save(folder / f"{stem}.npz", **{k: np.ascontiguousarray(v) for k, v in arrays.items()})
        table = pa.table(
            {
                "uid": part.uids,
                "url": [f"http://x/{k}" for k in part.keys],
                "text": part.captions,
                "original_width": [640] * len(part),
                "original_height": [480] * len(part),
                "clip_b32_similarity_score": pa.array(part.cosine, pa.float32()),
                "clip_l14_similarity_score": pa.array(part.cosine, pa.float32()),
                "face_bboxes": pa.array(
                    [[[0.1, 0.2, 0.3, 0.4]]] * len(part), pa.list_(pa.list_(pa.float64()))
                ),
                "sha256": [hashlib.sha256(k.encode()).hexdigest() for k in part.keys],
                **more,
            }
        )
        pq.write_table(table, folder / f"{stem}.parquet")
    return folder


def npy_pair(folder: Path, pairs: Pairs) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "text_emb.npy", pairs.text)
    np.save(folder / "img_emb.npy", pairs.image)
    table = pa.table({"id": list(range(len(pairs))), "caption": pairs.captions})
    pq.write_table(table, folder / "pairs.parquet")
    return folder


def parquet_lists(
    folder: Path, parts: Sequence[Pairs], kind: Any = None, group: int | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kind = kind if kind is not None else pa.list_(pa.float16())
    for number, part in enumerate(parts):
        table = pa.table(
            {
                "key": part.keys,
                "text": part.captions,
                "text_embedding": _lists(part.text, kind),
                "image_embedding": _lists(part.image, kind),
            }
        )
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=group)
    return folder


def _lists(array: Half, kind: Any) -> Any:
    number = np.float16 if kind.value_type == pa.float16() else np.float32
    return pa.array(list(array.astype(number)), kind)
