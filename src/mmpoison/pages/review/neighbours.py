"""Finds pairs that resemble the shown ones, in one pass over the set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.filters.distance_scan import embed_pairs
from mmpoison.defenses.filters.pair_labels import Neighbour, ShownPair
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import ProgressFor, prepare_pixels

Floats = npt.NDArray[np.float32]

NEAREST = 4


def add_neighbours(
    shown: Sequence[ShownPair],
    pieces: PairPieces,
    encoder: DualEncoder,
    *,
    nearest: int = NEAREST,
    progress: ProgressFor | None = None,
) -> list[ShownPair]:
    """Add to the shown pairs the training pairs that are nearest to them, by caption and by image.

    A pair on the same image is no neighbour: its captions are shown anyhow. By image there is one pair for each image,
    its first.

    Every image and caption is embedded once; memory grows with the shown pairs alone.

    Args:
        shown: The pairs, `n` of them.
        pieces: The set they are from.
        encoder: Measures what resembles what.
        nearest: How many neighbours of each kind.
        progress: Gives a progress callback for a named step; it counts images, twice.

    Raises:
        InputError: If an image is missing or broken.
    """
    own_text, own_image = _own(shown, pieces, encoder, progress)
    texts, images = _Nearest(len(shown), nearest), _Nearest(len(shown), nearest)
    report = progress("comparing with all pairs") if progress is not None else None
    done = 0
    for piece in pieces:
        part = piece.pairs.where(piece.in_split("train"))
        if len(part):
            text, image = embed_pairs(encoder, prepare_pixels(encoder, part), part)
            ids = part.images.ids[part.image]
            elsewhere = np.array([pair.image for pair in shown])[:, None] != ids[None, :]
            found = [
                Neighbour(str(c), str(i), part.root, 0.0)
                for c, i in zip(part.captions, ids, strict=True)
            ]
            texts.add(np.where(elsewhere, own_text @ text.T, -np.inf), found)
            _, first = np.unique(part.image, return_index=True)
            images.add(
                np.where(elsewhere, own_image @ image.T, -np.inf)[:, first],
                [found[row] for row in first],
            )
        done += len(piece.pairs.images)
        if report is not None:
            report(done, pieces.images if pieces.images is not None else done + 1)
    if report is not None and pieces.images is None:
        report(done, done)
    return [
        replace(pair, by_caption=texts.of(number), by_image=images.of(number))
        for number, pair in enumerate(shown)
    ]


def _own(
    shown: Sequence[ShownPair],
    pieces: PairPieces,
    encoder: DualEncoder,
    progress: ProgressFor | None,
) -> tuple[Floats, Floats]:
    """Return the unit embeddings of the shown captions and images, both of shape `(n, d)`."""
    waiting: dict[tuple[str, str], list[int]] = {}
    for number, pair in enumerate(shown):
        waiting.setdefault((pair.image, pair.caption), []).append(number)
    text: dict[int, Floats] = {}
    image: dict[int, Floats] = {}
    for piece in pieces:
        pairs = piece.pairs
        ids = pairs.images.ids[pairs.image]
        keys = list(zip(ids, pairs.captions, strict=True))
        mask = np.array([key in waiting for key in keys], dtype=bool)
        if not mask.any():
            continue
        part = pairs.where(mask)
        captions, pictures = embed_pairs(encoder, prepare_pixels(encoder, part), part, progress)
        for row, key in enumerate(key for key, wanted in zip(keys, mask, strict=True) if wanted):
            for number in waiting[key]:
                text[number], image[number] = captions[row], pictures[row]
    order = range(len(shown))
    return np.stack([text[n] for n in order]), np.stack([image[n] for n in order])


class _Nearest:
    """The nearest few of each of `n` pairs, out of all that pass by."""

    def __init__(self, count: int, nearest: int) -> None:
        self._nearest = nearest
        self._found: list[list[Neighbour]] = [[] for _ in range(count)]

    def add(self, likeness: Floats, candidates: Sequence[Neighbour]) -> None:
        """Add candidates with their similarity to each pair, shape `(n, candidates)`; -inf excludes one."""
        some = min(self._nearest, len(candidates))
        best = np.argpartition(-likeness, some - 1, axis=1)[:, :some]
        for number, columns in enumerate(best):
            new = [
                replace(candidates[column], distance=float(np.clip(1 - value, 0, 2)))
                for column in columns
                if np.isfinite(value := likeness[number, column])
            ]
            nearest = sorted([*self._found[number], *new], key=lambda pair: pair.distance)
            self._found[number] = nearest[: self._nearest]

    def of(self, number: int) -> tuple[Neighbour, ...]:
        """Return the nearest of one pair, the nearest first."""
        return tuple(self._found[number])
