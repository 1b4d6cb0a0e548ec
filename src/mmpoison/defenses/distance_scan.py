"""Distances of all pairs of a set of any size: piece by piece, kept on disk, taken up again after a kill."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmpoison.array_files import read_arrays
from mmpoison.datasets.cache import cache_folder
from mmpoison.datasets.pairs import BoolArray, IntArray, PairDataset
from mmpoison.defenses.pair_pieces import PairPieces
from mmpoison.errors import InputError
from mmpoison.files import atomic_file
from mmpoison.metrics import cosine_distance
from mmpoison.models.compute_environment import compute_environment
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_images, embed_texts
from mmpoison.models.inputs import (
    PairInputs,
    ProgressFor,
    files_digest,
    preparation_key,
    prepare_pixels,
)

Floats = npt.NDArray[np.float32]

PIXELS_AT_ONCE = 96 * 2**20
"""Bytes of decoded images in a piece."""

IN_SAMPLE, IN_SAMPLES = 32, 2048
"""Pairs whose embeddings are kept, of each piece and in all, to see how far apart random pairs are."""


@dataclass(frozen=True)
class PairScan:
    """What a judge said of the pairs of one split.

    Attributes:
        distances: Cosine distance of each pair in the order of the stream, in [0, 2], shape `(N,)`; 9 bytes a
            pair, with image and poisoned, are all that grows.
        image: Number of the image of each pair, counted through the stream, shape `(N,)`.
        mismatched: Distances of captions to random other images of the same set, in [0, 2], shape `(M,)`.
        poisoned: Which pairs the manifest calls poisoned, shape `(N,)`; None where there is no manifest.
        new_pairs: Of the pairs, how many were embedded now and not taken from an earlier scan.
    """

    distances: Floats
    image: IntArray
    mismatched: Floats
    poisoned: BoolArray | None
    new_pairs: int


def images_at_once(image_size: int) -> int:
    """How many images of a size a piece has: so many that their pixels are few megabytes.

    >>> images_at_once(224), images_at_once(64)
    (668, 2000)
    """
    return int(np.clip(PIXELS_AT_ONCE // (image_size * image_size * 3), 32, 2000))


def scan_pairs(
    pieces: PairPieces,
    encoder: DualEncoder,
    *,
    split: str = "train",
    work: Path | None = None,
    progress: ProgressFor | None = None,
) -> PairScan:
    """Distance of each pair of a split, with memory that does not grow with the images.

    Each finished piece is a file under a name that is a digest of what its distances depend on: the judge, the code,
    libraries, device and threads that compute them, the captions, and the images' paths, sizes and times of change. So
    a scan that was killed resumes, a changed piece is scanned again, and no pair is lost or counted twice.

    Args:
        pieces: The set.
        encoder: The judge.
        split: Which pairs are judged.
        work: Folder of the files; `distances` in the cache folder by default.
        progress: Gives a progress callback for a named step; it counts images.

    Raises:
        InputError: If there is no pair in the split, or an image is missing or broken.
    """
    folder = (cache_folder() / "distances" if work is None else work) / _key(encoder)
    report = progress(f"judging {split} pairs") if progress is not None else None
    distances: list[Floats] = []
    image: list[IntArray] = []
    poisoned: list[BoolArray] = []
    sample = _Sample()
    done = new = 0
    for piece in pieces:
        judged = piece.in_split(split)
        part = piece.pairs.where(judged)
        if len(part):
            file = folder / f"{_digest(part)}.npz"
            found = _read(file, len(part))
            if found is None:
                found = _judge(part, encoder)
                _write(file, found)
                new += len(part)
            distances.append(found[0])
            image.append(part.image + done)
            poisoned.append(piece.poisoned[judged])
            sample.add(found[1], found[2])
        done += len(piece.pairs.images)
        if report is not None:
            report(done, pieces.images if pieces.images is not None else done + 1)
    if report is not None and pieces.images is None:
        report(done, done)
    if not distances:
        raise InputError(f"split {split!r} has no pair to judge")
    return PairScan(
        np.concatenate(distances),
        np.concatenate(image),
        sample.mismatched(),
        np.concatenate(poisoned) if pieces.manifest is not None else None,
        new,
    )


def embed_pairs(
    encoder: DualEncoder,
    inputs: PairInputs,
    pairs: PairDataset,
    progress: ProgressFor | None = None,
) -> tuple[Floats, Floats]:
    """Unit embeddings of the caption and of the image of each pair, both of shape `(N, d)`.

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


def mismatched_distances(
    text: Floats, image: Floats, *, count: int = 20_000, seed: int = 0
) -> Floats:
    """Distances of captions to images of other pairs, drawn at random.

    Args:
        text: Unit embeddings of captions, shape `(n, d)`.
        image: Unit embeddings of their images, shape `(n, d)`.
        count: How many are drawn.
        seed: Of the draw.

    Returns:
        Shape `(count,)`; empty where there is only one image.
    """
    rng = np.random.default_rng(seed)
    one = rng.integers(0, len(text), count)
    other = rng.integers(0, len(text), count)
    # the same image may be in several pairs
    differ = (image[one] != image[other]).any(axis=1)
    return np.asarray(cosine_distance(text[one[differ]], image[other[differ]]), dtype=np.float32)


class _Sample:
    """A random few of the embeddings, from all pieces alike."""

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

    def mismatched(self) -> Floats:
        text, image = (np.stack(rows) for rows in zip(*self._rows, strict=True))
        return mismatched_distances(text, image)


def _judge(part: PairDataset, encoder: DualEncoder) -> tuple[Floats, Floats, Floats]:
    text, image = embed_pairs(encoder, prepare_pixels(encoder, part), part)
    distances = np.asarray(cosine_distance(text, image), dtype=np.float32)
    chosen = np.random.default_rng(0).permutation(len(part))[:IN_SAMPLE]
    return distances, text[chosen], image[chosen]


def _key(encoder: DualEncoder) -> str:
    """What the distances of all pieces depend on: the judge, and what computes them."""
    computed = compute_environment(encoder.device, __name__)
    parts = [encoder.digest(), str(encoder.config.get("model_cfg")), preparation_key(encoder)]
    return hashlib.sha256("\0".join([computed, *parts]).encode()).hexdigest()[:32]


def _digest(part: PairDataset) -> str:
    digest = hashlib.sha256(files_digest(part, part.used_images()).encode())
    for caption, image in zip(part.captions, part.images.ids[part.image], strict=True):
        digest.update(f"{image}\0{caption}\0".encode())
    return digest.hexdigest()[:32]


def _write(file: Path, arrays: tuple[Floats, Floats, Floats]) -> None:
    with atomic_file(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, distances=arrays[0], text=arrays[1], image=arrays[2])


def _read(file: Path, pairs: int) -> tuple[Floats, Floats, Floats] | None:
    """A finished piece, or None where there is none that can be used."""
    found = read_arrays(file, "distances", "text", "image")
    if found is None or found[0].shape != (pairs,):
        return None
    distances, text, image = found
    return distances, text, image
