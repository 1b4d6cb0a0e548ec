"""Scores all pairs of a set of any size: piece by piece, each cached, so that a killed scan resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.content_cache import Array, CacheKey, ContentCache
from mmpoison.base.untrusted import parse_json
from mmpoison.defenses.catalogue import PairFilter
from mmpoison.defenses.filter_result import PairScores
from mmpoison.defenses.filters.pair_pieces import PairPieces, pairs_without
from mmpoison.defenses.unreadable import Unreadable, short_reasons
from mmpoison.errors import InputError
from mmpoison.models.compute_environment import compute_environment, encoder_identity
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_images, embed_texts
from mmpoison.models.inputs import (
    PairInputs,
    ProgressFor,
    prepare_pixels,
    present_files_digest,
)
from mmpoison.pairs.table import BoolArray, IntArray, PairDataset

Floats = npt.NDArray[np.float32]

PIXELS_AT_ONCE = 96 * 2**20
"""Bytes of decoded images in a piece."""

IN_SAMPLE, IN_SAMPLES = 64, 2048
"""Pairs whose embeddings are kept, of each piece and in all, to see how far apart random pairs are: 64 pairs give the
AUROC of a judge to 0.07."""


@dataclass(frozen=True)
class PairScan:
    """Scores of the pairs of one split.

    Attributes:
        found: What the method gave, but for embeddings, in the order of the stream; the score, with image and poisoned,
            is 9 bytes a pair, and all that grows.
        image: Number of the image of each pair, counted through the stream, shape `(N,)`.
        sample: Unit embeddings of the captions and of the images of a random sample of the pairs, both `(m, d)`; none
            where the method gives no embeddings.
        poisoned: Which pairs the manifest calls poisoned, shape `(N,)`; None where there is no manifest.
        new_pairs: Of the pairs, how many were embedded now and not taken from an earlier scan.
        unreadable: Images that could not be read; their pairs are in none of the above.
    """

    found: PairScores
    image: IntArray
    sample: tuple[Floats, Floats]
    poisoned: BoolArray | None
    new_pairs: int
    unreadable: Unreadable

    @property
    def scores(self) -> npt.NDArray[np.floating[Any]]:
        """Score of each pair, shape `(N,)`."""
        return self.found.scores


def images_at_once(image_size: int) -> int:
    """Return how many images a piece has, so that their pixels take a few megabytes.

    >>> images_at_once(224), images_at_once(64)
    (668, 2000)
    """
    return int(np.clip(PIXELS_AT_ONCE // (image_size * image_size * 3), 32, 2000))


def scan_pairs(
    pieces: PairPieces,
    encoder: DualEncoder,
    method: PairFilter,
    *,
    split: str = "train",
    work: Path | None = None,
    progress: ProgressFor | None = None,
) -> PairScan:
    """Score each pair of a split by a method that streams, with memory that does not grow with the images.

    Each finished piece is cached under what its scores depend on: the method, the judge, the code, libraries, device
    and threads that compute them, the captions, and the images' paths, sizes and times of change. So a scan that was
    killed resumes, a changed piece is scanned again, and no pair is lost or counted twice.

    Pairs of images that cannot be read are left out, and the images named in the result: `PairPieces.leave_out` leaves
    their pairs out of the pieces too, whose order then is that of the scan.

    Args:
        pieces: The set.
        encoder: The judge.
        method: Gives the scores.
        split: Which pairs are judged.
        work: Folder of a content cache; the usual one by default.
        progress: Gives a progress callback for a named step; it counts images.

    Raises:
        InputError: If there is no pair in the split, or none of its images can be read.
    """
    cache, judge = ContentCache(work), scan_parts(encoder, method)
    report = progress(f"scanning images for {split} pairs") if progress is not None else None
    distances: list[Floats] = []
    image: list[IntArray] = []
    poisoned: list[BoolArray] = []
    reasons: dict[str, str] = {}
    sample = _Sample()
    done = new = images = pairs = unread_poisoned = 0
    for piece in pieces:
        judged = piece.in_split(split)
        part = piece.pairs.where(judged)
        if len(part):
            found, cached = _judged(part, encoder, method, cache, judge)
            readable = pairs_without(part, found.reasons)
            new += 0 if cached else int(readable.sum())
            distances.append(found.distances[readable])
            image.append(part.image[readable] + done)
            poisoned.append(piece.poisoned[judged][readable])
            sample.add(found.text, found.image)
            images += len(part.used_images())
            reasons.update(found.reasons)
            pairs += int((~readable).sum())
            unread_poisoned += int((piece.poisoned[judged] & ~readable).sum())
        done += len(piece.pairs.images)
        if report is not None:
            report(done, pieces.images if pieces.images is not None else done + 1)
    if report is not None and pieces.images is None:
        report(done, done)
    if not distances:
        raise InputError(f"split {split!r} has no pair to judge")
    has_manifest = pieces.manifest is not None
    unreadable = Unreadable(images, reasons, pairs, unread_poisoned if has_manifest else None)
    if not any(map(len, distances)):
        raise unreadable.none_left(f"split {split!r}")
    return PairScan(
        PairScores(np.concatenate(distances)),
        np.concatenate(image),
        sample.embeddings(),
        np.concatenate(poisoned) if has_manifest else None,
        new,
        unreadable,
    )


def embed_pairs(
    encoder: DualEncoder,
    inputs: PairInputs,
    pairs: PairDataset,
    progress: ProgressFor | None = None,
) -> tuple[Floats, Floats]:
    """Return the unit embeddings of the caption and of the image of each pair, both of shape `(N, d)`.

    Each image and each distinct caption is embedded once, however many pairs it is in.
    """
    used, image_row = np.unique(pairs.image, return_inverse=True)
    image = embed_images(
        encoder, inputs, used, progress=progress("judging images") if progress else None
    )
    text = embed_texts(
        encoder, inputs, pairs.captions, progress=progress("judging captions") if progress else None
    )
    return text, image[image_row]


_NO_EMBEDDINGS: tuple[Floats, Floats] = (np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))


class _Sample:
    """A random sample of the embeddings, drawn equally from all pieces."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._rows: list[tuple[Floats, Floats]] = []
        self._seen = 0

    def add(self, text: Floats, image: Floats) -> None:
        for row in zip(text, image, strict=True):
            self._seen += 1
            if len(self._rows) < IN_SAMPLES:
                self._rows.append(row)
            elif (place := int(self._rng.integers(self._seen))) < IN_SAMPLES:
                self._rows[place] = row

    def embeddings(self) -> tuple[Floats, Floats]:
        if not self._rows:
            return _NO_EMBEDDINGS
        text, image = (np.stack(rows) for rows in zip(*self._rows, strict=True))
        return text, image


@dataclass(frozen=True)
class _Judged:
    """A judged piece.

    Attributes:
        distances: Score of each pair, shape `(n,)`; NaN where its image cannot be read.
        text: Embeddings of a few captions, shape `(m, d)`.
        image: Embeddings of their images, shape `(m, d)`.
        reasons: What is wrong with images that cannot be read, by id.
        passing: Of these, the ids of images that may be readable another time.
    """

    distances: Floats
    text: Floats
    image: Floats
    reasons: Mapping[str, str]
    passing: frozenset[str] = frozenset()


def _judge(part: PairDataset, encoder: DualEncoder, method: PairFilter) -> _Judged:
    inputs = prepare_pixels(encoder, part, broken="drop")
    broken = inputs.pixels.broken
    readable = pairs_without(part, broken)
    rows = np.flatnonzero(readable)
    distances = np.full(len(part), np.nan, dtype=np.float32)
    text, image = _NO_EMBEDDINGS
    if len(rows):
        found = method.score(part.where(readable), encoder, inputs)
        distances[rows] = found.scores
        text, image = _some_embeddings(found, slice(None))
    reasons = short_reasons(part.root, broken)
    return _Judged(distances, text, image, reasons, inputs.pixels.passing)


def _some_embeddings(
    found: PairScores, rows: slice | npt.NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Return the embeddings of a random sample of some pairs; none if the method gives none."""
    if found.embeddings is None:
        return _NO_EMBEDDINGS
    text, image = (values[rows] for values in found.embeddings)
    chosen = np.random.default_rng(0).permutation(len(text))[:IN_SAMPLE]
    return text[chosen], image[chosen]


def sample_of(found: PairScores, image: IntArray, at_once: int) -> tuple[Floats, Floats]:
    """Return the embeddings of the same random sample of pairs as `scan_pairs` takes.

    Args:
        found: Of all pairs of a set in memory.
        image: Image of each pair, shape `(N,)`, sorted.
        at_once: How many images a piece has.
    """
    sample = _Sample()
    piece = image // at_once
    for number in np.unique(piece):
        sample.add(*_some_embeddings(found, np.flatnonzero(piece == number)))
    return sample.embeddings()


def parameters_of(method: PairFilter) -> dict[str, Any]:
    """Return what scores depend on besides the judge and the pairs: the attributes of a method without its cut."""
    return {name: value for name, value in sorted(vars(method).items()) if name != "cut"}


def scan_parts(encoder: DualEncoder, method: PairFilter) -> dict[str, Any]:
    """Return what the scores of all pieces depend on: the judge, the method, and what computes them."""
    return {
        "computed": compute_environment(encoder.device, type(method)),
        **encoder_identity(encoder),
        "method": method.name,
        "parameters": repr(parameters_of(method)),
    }


class _Passing(Exception):
    """A judged piece that is not cached: some of its images may be readable the next time."""

    def __init__(self, judged: _Judged) -> None:
        super().__init__()
        self.judged = judged


def _judged(
    part: PairDataset,
    encoder: DualEncoder,
    method: PairFilter,
    cache: ContentCache,
    judge: Mapping[str, Any],
) -> tuple[_Judged, bool]:
    """Judge a piece, or read the cached result, and return which of the two."""
    files, missing = present_files_digest(part, part.used_images())
    pairs = hashlib.sha256()
    for caption, image in zip(part.captions, part.images.ids[part.image], strict=True):
        pairs.update(f"{image}\0{caption}\0".encode())
    key = CacheKey("distances", {**judge, "images": files, "pairs": pairs.hexdigest()})
    judged: _Judged | None = None

    def compute() -> dict[str, Array]:
        nonlocal judged
        judged = _judge(part, encoder, method)
        # the key says which images are missing, and not what there was no memory for
        if not judged.passing <= missing:
            raise _Passing(judged)
        reasons = json.dumps(dict(judged.reasons)).encode()
        return {
            "distances": judged.distances,
            "text": judged.text,
            "image": judged.image,
            "unreadable": np.frombuffer(reasons, dtype=np.uint8),
        }

    def check(found: tuple[Array, ...]) -> None:
        if found[0].shape != (len(part),) or not isinstance(_reasons(found[3]), dict):
            raise InputError("scores of other pairs")

    try:
        names = ("distances", "text", "image", "unreadable")
        distances, text, image, unreadable = cache.arrays(key, compute, *names, check=check)
    except _Passing as error:
        return error.judged, False
    found = judged or _Judged(distances, text, image, _reasons(unreadable))
    return found, judged is None


def _reasons(unreadable: Array) -> dict[str, str]:
    value: dict[str, str] = parse_json(unreadable.tobytes(), "reasons")
    return value
