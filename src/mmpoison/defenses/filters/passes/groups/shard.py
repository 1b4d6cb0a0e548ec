"""A shard of embedded pairs, and numbers that decide by chance which of its images are sampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.base.seeding import stream_key
from mmpoison.defenses.filters.passes.half import AnyVectors
from mmpoison.errors import InputError

Index = npt.NDArray[np.intp]
Hashes = npt.NDArray[np.uint64]

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = 0x9E3779B97F4A7C15
_ALL = (1 << 64) - 1


@dataclass(frozen=True)
class Shard:
    """A part of a data set whose embeddings exist.

    Attributes:
        number: Its number, from 0; parts of a pass are merged in this order.
        text: Vectors of the captions, float16 or float32, shape `(n, d)`; may be memory-mapped and of any length.
        image: Vectors of their images, shape `(n, e)`; the two may come from encoders that are not aligned.
        image_of: Number of the image of each pair, not negative, shape `(n,)`: rows of one image are next to each other
            or not, but in this shard. None where every row has an image of its own.

    Raises:
        InputError: If the arrays do not fit.
    """

    number: int
    text: AnyVectors
    image: AnyVectors
    image_of: Index | None = None

    def __post_init__(self) -> None:
        name = f"shard {self.number}"
        for side, vectors in (("captions", self.text), ("images", self.image)):
            if vectors.ndim != 2 or not vectors.shape[1]:
                raise InputError(
                    f"{name}: vectors of {side} have shape {vectors.shape}, (pairs, dimensions) is needed"
                )
            if vectors.dtype not in (np.float16, np.float32):
                raise InputError(
                    f"{name}: vectors of {side} are {vectors.dtype}, float16 or float32 is needed"
                )
        if len(self.text) != len(self.image):
            raise InputError(
                f"{name}: {len(self.text):,} captions and {len(self.image):,} images, a pair needs both"
            )
        if self.image_of is not None and self.image_of.shape != (len(self.text),):
            raise InputError(
                f"{name}: image_of has shape {self.image_of.shape}, one number for each of {len(self.text):,} pairs "
                "is needed"
            )
        if self.image_of is not None and len(self.image_of) and self.image_of.min() < 0:
            raise InputError(
                f"{name}: image_of has the number {self.image_of.min()}, give numbers from 0"
            )

    def __len__(self) -> int:
        return len(self.text)

    @property
    def owner(self) -> Index:
        """The image of each row, shape `(n,)`."""
        return np.arange(len(self)) if self.image_of is None else np.asarray(self.image_of)


def hashes(seed: int, stream: str, shard: int | Index, items: Index) -> Hashes:
    """Return a random 64-bit number for each item of a shard, the same on every machine.

    Args:
        seed: Of the run.
        stream: What the numbers are for: other streams have other numbers.
        shard: Number of the shard, one or one for each item.
        items: Numbers of rows or images, shape `(n,)`.
    """
    start = np.atleast_1d(np.asarray(shard)).astype(np.uint64) * np.uint64(_STEP)
    start = _mixed(start + np.uint64(stream_key(f"passes/{stream}/{seed}")))
    return _mixed(_mixed(np.asarray(items).astype(np.uint64) * np.uint64(_STEP) + start) + start)


def _mixed(x: Hashes) -> Hashes:
    """Return the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return np.asarray(x ^ (x >> np.uint64(31)))


def below(share: float) -> np.uint64:
    """Return the number below which a share of all hashes lies, at most the largest."""
    return np.uint64(min(int(share * 2.0**64), _ALL))
