"""Embeds pairs of any source, piece by piece, in the layout of clip-retrieval, so that a scan reads only embeddings."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.content_cache import Array, CacheKey, ContentCache
from mmpoison.base.files import atomic_file
from mmpoison.base.progress import RunProgress
from mmpoison.base.untrusted import parse_json
from mmpoison.defenses.scan.read.pieces import PairPieces, Unreadable, pairs_without, short_reasons
from mmpoison.defenses.scan.read.shards import EmbeddedSource, open_embedded
from mmpoison.defenses.scan.read.tables import ADDRESSES, KINDS, NAMES, PLACE, storable
from mmpoison.defenses.scan.read.vectors import embed_pairs
from mmpoison.errors import InputError
from mmpoison.models.compute_environment import compute_environment, encoder_identity
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import prepare_pixels, present_files_digest
from mmpoison.pairs.table import BoolArray, ColumnKind, PairDataset, add_kinds, column_value


@dataclass(frozen=True)
class EmbeddedPairs:
    """The embedded pairs of a split.

    Attributes:
        source: The embeddings. Rows of pairs with an unreadable image are zero.
        readable: Mask of pairs with a readable image, in shard order, shape `(N,)`.
        poisoned: Mask of pairs that the manifest marks as poisoned, shape `(N,)`.
        unreadable: Unreadable images.
        root: Folder that image ids are relative to.
        foreign: A warning if the text encoder hardly knows the words of the captions.
    """

    source: EmbeddedSource
    readable: BoolArray
    poisoned: BoolArray
    unreadable: Unreadable
    root: Path
    foreign: str | None = None


ENGLISH = (
    "a dog runs over the green lawn next to a white house",
    "two airplanes are parked at the airport near the terminal",
    "some people are sitting at a table in a small restaurant",
)
FOREIGN = 1.35
"""Limit on tokens per word, relative to English captions: English product titles have 1.2, French captions 1.4 to 1.5,
German captions 1.7 to 1.9 (tokenizers of MiniLM and openmoji-mini)."""

READ_CAPTIONS = 500


def foreign_captions(model: DualEncoder, captions: Sequence[str]) -> str | None:
    """Return a warning if the text encoder hardly knows the captions' words, because groups may then be artefacts.

    Args:
        model: The model.
        captions: Some captions.
    """

    def tokens_a_word(texts: Sequence[str]) -> float:
        words = sum(len(re.findall(r"\w+", text)) for text in texts)
        # without start and end tokens
        tokens = model.token_lengths(model.tokens(list(texts))) - 2
        return float(tokens.sum()) / max(words, 1)

    found = tokens_a_word(captions)
    if not captions or found <= FOREIGN * tokens_a_word(ENGLISH):
        return None
    return (
        f"captions have {found:.1f} tokens per word, where English has {tokens_a_word(ENGLISH):.1f}: {model.name} "
        "hardly knows their words (another language?), so groups may be artefacts: scan again with --encoder and a "
        "model that knows them"
    )


def embed_source(
    pieces: PairPieces,
    name: str,
    model: DualEncoder,
    folder: Path,
    *,
    split: str,
    joint: bool,
    progress: RunProgress,
) -> EmbeddedPairs | None:
    """Embed the pairs of a split. The vectors of a piece are cached, so that another scan needs no images.

    Args:
        pieces: The set.
        name: The path or address given by the user.
        model: The model.
        folder: Folder of the embeddings. Existing pieces are not written again.
        split: Which pairs.
        joint: Joint embeddings, or the outputs of the two trunks, which reflect similarity within a modality better.
        progress: Reports the progress.

    Returns:
        The embeddings; None if the split has no pair.

    Raises:
        AllUnreadable: If no image is readable.
    """
    writer = _Writer(folder, model, joint)
    total = pieces.images
    report = progress.progress(
        f"embedding {'' if split == 'train' else 'trusted '}pairs with {model.name}"
    )
    done = number = images = 0
    read: list[str] = []
    readable, poisoned, root = [], [], Path()
    for piece in pieces:
        root = piece.pairs.root
        judged = piece.in_split(split)
        part = piece.pairs.where(judged)
        if len(part):
            read += part.captions[: max(0, READ_CAPTIONS - len(read))].astype(str).tolist()
            broken = writer.add(number, part, piece.pair_ids(judged))
            readable.append(pairs_without(part, broken))
            poisoned.append(piece.poisoned[judged])
            images += len(part.used_images())
            number += 1
        done += len(piece.pairs.images)
        report(done, total if total is not None else done + 1)
    if total is None:
        report(done, done)
    if not number:
        return None
    writer.finish(number)
    usable, bad = np.concatenate(readable), np.concatenate(poisoned)
    gone = int((bad & ~usable).sum()) if pieces.manifest is not None else None
    unreadable = Unreadable(images, writer.unreadable, int((~usable).sum()), gone)
    if not usable.any():
        raise unreadable.none_left(f"split {split!r}")
    opened = open_embedded(
        folder, format="clip-retrieval", options={"id": "pair", "image_id": "image"}
    )
    named = EmbeddedSource(pieces.format, name, opened.shards, opened.dimension, opened.id_kind)
    return EmbeddedPairs(named, usable, bad, unreadable, root, foreign_captions(model, read))


class _Passing(Exception):
    """Vectors that are not cached, because some images may be readable next time."""

    def __init__(self, found: Mapping[str, Array]) -> None:
        super().__init__()
        self.found = found


class _Writer:
    """Writes the embeddings of pieces."""

    def __init__(self, folder: Path, model: DualEncoder, joint: bool) -> None:
        self.folder, self.model, self.joint = folder, model, joint
        self.unreadable: dict[str, str] = {}
        self._cache = ContentCache()
        self._identity = {
            "computed": compute_environment(model.device, embed_pairs),
            **encoder_identity(model),
            "joint": joint,
        }
        self._width: int | None = None
        self._waiting: list[tuple[int, PairDataset, Sequence[str]]] = []

    def add(self, number: int, part: PairDataset, names: Sequence[str]) -> Mapping[str, str]:
        """Write a piece, whose pairs have `names`; return unreadable images and the reasons."""
        text, image, broken = self._embedded(part)
        self.unreadable |= broken
        if not text.any() and self._width is None:
            self._waiting.append(
                (number, part, names)
            )  # until the first readable one, which defines the width
            return broken
        if self._width is None:
            self._width = text.shape[1]
            for earlier in self._waiting:
                self.add(*earlier)
        if text.shape[1] != self._width:
            text = image = np.zeros((len(part), self._width), text.dtype)
        files = self._files(number)
        for file, vectors in zip(files[:2], (text, image), strict=True):
            stream = io.BytesIO()
            np.save(stream, vectors, allow_pickle=False)
            _write(file, stream.getvalue())
        _write(files[2], _table(names, part))
        return broken

    def finish(self, pieces: int) -> None:
        """Remove leftovers of an earlier, longer source."""
        for number in range(pieces, pieces + 1_000_000):
            left = [file for file in self._files(number) if file.is_file()]
            if not left:
                break
            for file in left:
                file.unlink()

    def _files(self, number: int) -> tuple[Path, Path, Path]:
        return (
            self.folder / "text_emb" / f"text_emb_{number}.npy",
            self.folder / "img_emb" / f"img_emb_{number}.npy",
            self.folder / "metadata" / f"metadata_{number}.parquet",
        )

    def _embedded(self, part: PairDataset) -> tuple[Array, Array, dict[str, str]]:
        """Return the vectors of each pair (zeros for unreadable images), and the problems of unreadable images."""
        files, missing = present_files_digest(part, part.used_images())
        pairs = hashlib.sha256()
        for caption, image_id in zip(part.captions, part.images.ids[part.image], strict=True):
            pairs.update(f"{image_id}\0{caption}\0".encode("utf-8", "surrogatepass"))
        key = CacheKey(
            "embeddings", {**self._identity, "images": files, "pairs": pairs.hexdigest()}
        )

        def compute() -> dict[str, Array]:
            inputs = prepare_pixels(self.model, part, broken="drop")
            broken = inputs.pixels.broken
            readable = pairs_without(part, broken)
            reasons = json.dumps(dict(short_reasons(part.root, broken))).encode()
            found: dict[str, Array] = {"unreadable": np.frombuffer(reasons, dtype=np.uint8)}
            sides: tuple[Array, ...] = (np.zeros((0, 1), np.float32),) * 2
            if readable.any():
                sides = embed_pairs(self.model, inputs, part.where(readable), joint=self.joint)
            for name, side in zip(("text", "image"), sides, strict=True):
                found[name] = np.zeros((len(part), side.shape[1]), dtype=side.dtype)
                found[name][readable] = side
            # the key records missing images, but not images that failed for lack of memory
            if not inputs.pixels.passing <= missing:
                raise _Passing(found)
            return found

        names = ("text", "image", "unreadable")
        try:
            text, image, unreadable = self._cache.arrays(key, compute, *names)
        except _Passing as error:
            text, image, unreadable = (error.found[name] for name in names)
        broken: dict[str, str] = parse_json(unreadable.tobytes(), "reasons")
        if len(text) != len(part) or len(image) != len(part):
            raise InputError("cached embeddings belong to other pairs: run `mmpoison cache clear`")
        return text, image, broken


def _write(file: Path, data: bytes) -> None:
    """Write a file unless it exists, so that a resumed scan finds the files it began with."""
    if not file.is_file() or file.read_bytes() != data:
        with atomic_file(file) as temporary:
            temporary.write_bytes(data)


USED = (*ADDRESSES, *KINDS)
"""The user's own columns that the scan itself uses. The lists need all, which are read again from the source."""


def _table(names: Sequence[str], part: PairDataset) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert part.rows is not None, "pieces have the places of their pairs"
    file, row, place = part.rows.at.T
    columns = (names, part.images.ids[part.image], part.captions)
    table: dict[str, Any] = {
        **{
            name: [storable(str(value)) for value in values]
            for name, values in zip(NAMES, columns, strict=True)
        },
        PLACE[0]: [storable(part.rows.files[number]) for number in file],
        PLACE[1]: row,
        PLACE[2]: place,
    }
    per_image, per_caption = part.images.own_columns, part.own_columns
    rows = [
        {
            **((per_image[image] or {}) if per_image is not None else {}),
            **((per_caption[row] or {}) if per_caption is not None else {}),
        }
        for row, image in enumerate(part.image)
    ]
    kinds: dict[str, ColumnKind] = {}
    add_kinds(kinds, ({name: one[name] for name in USED if name in one} for one in rows))
    for name, kind in kinds.items():
        table[name] = [column_value(one.get(name), kind) for one in rows]
    stream = io.BytesIO()
    pq.write_table(pa.table(table), stream)
    return stream.getvalue()
