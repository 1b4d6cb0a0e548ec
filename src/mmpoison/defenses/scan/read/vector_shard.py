"""Vectors of pairs in shards: cosine distances, principal components, and a random sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from mmpoison.base.registry import check_whole
from mmpoison.base.seeding import stream_key
from mmpoison.errors import InputError

# -- Cosine distances of a shard's pairs, in blocks that fit into a core's cache.


Vectors = npt.NDArray[np.float32]
Values = npt.NDArray[np.float32]
AnyVectors = npt.NDArray[np.floating[Any]]
"""Vectors of float16 or float32."""

DISTANCE = "cosine distance of image and caption"

PAIRS_AT_ONCE = 256
"""Rows per block: two float32 blocks of 512 dimensions take 1 MiB, which fits into a core's cache."""

TOO_LONG = np.float32(65536.0**2)
"""A row with a non-finite float16 has at least this squared length after `to_float32`."""

_SIGN_AND_REST = np.uint32(0x8FFFE000)
_SCALE = np.float32(2.0**112)


def to_float32(block: AnyVectors, out: Vectors) -> None:
    """Convert a block of vectors to float32.

    The bits of a float16 are moved to their position in a float32, and a multiplication corrects the exponent. This is
    exact for all finite numbers, including subnormal ones. Non-finite numbers become at least 65,536, which
    `squared_lengths` recognises.

    Args:
        block: Shape `(n, d)`.
        out: Output array, shape `(n, d)`.
    """
    if block.dtype != np.float16:
        np.copyto(out, block)
        return
    bits = out.view(np.uint32)
    # copying a signed number also copies its sign into the upper half
    np.copyto(out.view(np.int32), block.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_REST, out=bits)
    np.multiply(out, _SCALE, out=out)


def squared_lengths(block: AnyVectors, converted: Vectors) -> Vectors:
    """Return the squared length of each vector, shape `(n,)`; NaN if it is zero or not finite.

    Args:
        block: The vectors as stored, shape `(n, d)`.
        converted: The result of `to_float32`, shape `(n, d)`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares: Vectors = np.einsum("ij,ij->i", converted, converted)
        squares[squares == 0] = np.nan
        # few or none: long vectors are possible, so check the stored numbers
        suspect = np.flatnonzero(~(squares < TOO_LONG))
    if len(suspect):
        broken = ~np.isfinite(np.asarray(block[suspect])).all(axis=1)
        squares[suspect[broken]] = np.nan
        squares[~np.isfinite(squares)] = np.nan
    return squares


def distances(text: AnyVectors, image: AnyVectors, block: int = PAIRS_AT_ONCE) -> Vectors:
    """Compute one minus the cosine of each pair's caption and image.

    Vectors need not have unit length: computing lengths costs little compared with reading, and no sample could prove
    that all are normalised.

    Args:
        text: Vectors of the captions, float16 or float32, shape `(n, d)`; may be memory-mapped.
        image: Vectors of their images, shape `(n, d)`.
        block: Rows read at a time; the result does not depend on it.

    Returns:
        Distances in [0, 2], NaN if a vector is zero or not finite, shape `(n,)`.

    >>> distances(np.float32([[1, 0], [1, 1], [0, 0]]), np.float32([[0, 2], [3, 3], [1, 0]])).round(3).tolist()
    [1.0, 0.0, nan]
    """
    found = np.empty(len(text), dtype=np.float32)
    captions = np.empty((min(block, len(text)), text.shape[1]), dtype=np.float32)
    images = np.empty_like(captions)
    for start in range(0, len(text), block):
        rows = slice(start, min(start + block, len(text)))
        x, y = captions[: rows.stop - start], images[: rows.stop - start]
        to_float32(text[rows], x)
        to_float32(image[rows], y)
        lengths = squared_lengths(text[rows], x).astype(np.float64)
        lengths *= squared_lengths(image[rows], y)
        with np.errstate(over="ignore", invalid="ignore"):
            cosine = np.einsum("ij,ij->i", x, y) / np.sqrt(lengths)
        found[rows] = (1 - cosine).clip(0, 2)
    return found


# -- A shard of embedded pairs, and random numbers that decide which of its images are sampled.

DIMENSIONS = 64
"""Number of principal components: finds groups as well as with all of them, in a tenth of the time."""


def unit(vectors: Vectors) -> Vectors:
    """Normalise rows to unit length; rows of zeros stay. The shape is unchanged."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = vectors / np.maximum(length, np.float32(1e-9))
    return scaled


# -- Values written as arrays, which workers read.


Arrays = dict[str, npt.NDArray[Any]]


def prefixed(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Add a prefix to the names of arrays."""
    return {f"{name}/{key}": np.asarray(value) for key, value in arrays.items()}


def part_of(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Return the arrays with a prefix added by `prefixed`, without the prefix."""
    start = f"{name}/"
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}


class Stored:
    """A dataclass that can be written as arrays.

    Fields are arrays, numbers, `Stored`, or mappings and tuples of these.
    """

    def to_arrays(self) -> Arrays:
        """Return arrays for `numpy.savez`."""
        found: Arrays = {}
        for name in _names(self):
            found |= _flat(name, getattr(self, name))
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild the object from the result of `to_arrays`."""
        kinds = get_type_hints(cls)
        return cls(**{name: _read(kinds[name], name, arrays) for name in _names(cls)})


def _names(cls: Any) -> list[str]:
    return [each.name for each in fields(cls)]


def _flat(name: str, value: Any) -> Arrays:
    if isinstance(value, Stored):
        return prefixed(name, value.to_arrays())
    if isinstance(value, tuple):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {name: np.asarray(value)}
    parts = (_flat(f"{name}/{key}", each) for key, each in value.items())
    return {key: array for part in parts for key, array in part.items()}


def _read(kind: Any, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    if kind in (int, float):
        return kind(arrays[name])
    if get_origin(kind) is tuple:
        return tuple(_read(one, f"{name}/{i}", arrays) for i, one in enumerate(get_args(kind)))
    if get_origin(kind) is Mapping:
        mine = part_of(name, arrays)
        names = dict.fromkeys(key.partition("/")[0] for key in mine)
        return {key: _read(get_args(kind)[1], key, mine) for key in names}
    return kind.from_arrays(part_of(name, arrays)) if hasattr(kind, "from_arrays") else arrays[name]


Index = npt.NDArray[np.intp]
Hashes = npt.NDArray[np.uint64]

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = 0x9E3779B97F4A7C15
_ALL = (1 << 64) - 1


@dataclass(frozen=True)
class VectorShard:
    """A part of a data set, with its embeddings.

    Attributes:
        number: Its number, from 0. Results of a pass are merged in this order.
        text: Vectors of the captions, float16 or float32, shape `(n, d)`; may be memory-mapped and of any length.
        image: Vectors of their images, shape `(n, e)`. The two encoders need not be aligned.
        image_of: Image number of each pair, not negative, shape `(n,)`. All rows of an image are in this shard, but
            need not be adjacent. None if every row has its own image.
        texts: The captions, shape `(n,)`, if known.

    Raises:
        InputError: If the arrays do not match.
    """

    number: int
    text: AnyVectors
    image: AnyVectors
    image_of: Index | None = None
    texts: npt.NDArray[np.object_] | None = None

    def __post_init__(self) -> None:
        name = f"shard {self.number}"
        for side, vectors in (("captions", self.text), ("images", self.image)):
            if vectors.ndim != 2 or not vectors.shape[1]:
                raise InputError(
                    f"{name}: vectors of {side} have shape {vectors.shape}, expected (pairs, dimensions)"
                )
            if vectors.dtype not in (np.float16, np.float32):
                raise InputError(
                    f"{name}: vectors of {side} are {vectors.dtype}: expected float16 or float32"
                )
        if len(self.text) != len(self.image):
            raise InputError(
                f"{name}: {len(self.text):,} captions but {len(self.image):,} images: a pair needs both"
            )
        if self.image_of is not None and self.image_of.shape != (len(self.text),):
            raise InputError(
                f"{name}: image_of has shape {self.image_of.shape}, but needs one number for each of the "
                f"{len(self.text):,} pairs"
            )
        if self.image_of is not None and len(self.image_of) and self.image_of.min() < 0:
            raise InputError(
                f"{name}: image_of has the number {self.image_of.min()}: give numbers from 0"
            )

    def __len__(self) -> int:
        return len(self.text)

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return len(self)

    def vectors(self) -> tuple[AnyVectors, AnyVectors]:
        """Return the vectors of captions and of images."""
        return self.text, self.image

    def captions(self) -> list[str] | None:
        """Return the captions, if known."""
        return None if self.texts is None else self.texts.tolist()

    @property
    def owner(self) -> Index:
        """Image number of each row, shape `(n,)`."""
        return np.arange(len(self)) if self.image_of is None else np.asarray(self.image_of)


def hashes(seed: int, stream: str, shard: int | Index, items: Index) -> Hashes:
    """Return a random 64-bit number for each item of a shard, the same on every machine.

    Args:
        seed: Of the run.
        stream: Purpose of the numbers: different streams have different numbers.
        shard: Shard number, one for all items or one per item.
        items: Row or image numbers, shape `(n,)`.
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
    """Return the value below which a given share of all hashes lies, capped at the largest hash."""
    return np.uint64(min(int(share * 2.0**64), _ALL))


# -- The space in which the scan compares vectors: centred, reduced to principal components, normalised.


BLOCK = 1024
FIT_BLOCK = 8192


@dataclass(frozen=True)
class Space(Stored):
    """The reduction of one side (captions or images).

    A vector x becomes unit(unit(unit(x) - mean) - second) @ components). This needs no copy of x, only its length and
    its products with the components and the mean.

    Attributes:
        mean: Mean of the unit vectors, shape `(d,)`.
        second: Mean of the centred unit vectors, in components, shape `(k,)`.
        components: Shape `(d, k)`.
    """

    mean: Vectors
    second: Vectors
    components: Vectors

    @classmethod
    def fit(cls, vectors: AnyVectors) -> Space:
        """Fit to a sample without zero vectors, shape `(n, d)`."""
        n, d = vectors.shape
        mean = np.zeros(d)
        for block in _blocks(vectors):
            mean += unit(block).sum(axis=0, dtype=np.float64)
        mean = (mean / n).astype(np.float32)
        second, square = np.zeros(d), np.zeros((d, d))
        for block in _blocks(vectors):
            centred = unit(unit(block) - mean)
            second += centred.sum(axis=0, dtype=np.float64)
            square += centred.T @ centred
        second /= n
        # eigenvalues in ascending order
        axes = np.linalg.eigh(square / n - np.outer(second, second))[1]
        components = axes[:, ::-1][:, : min(DIMENSIONS, n, d)]
        return cls(
            mean,
            (second @ components).astype(np.float32),
            np.ascontiguousarray(components, dtype=np.float32),
        )

    def reduce(self, vectors: AnyVectors) -> Vectors:
        """Reduce vectors as stored.

        Args:
            vectors: Shape `(n, d)`; may be memory-mapped.

        Returns:
            Unit vectors, shape `(n, k)`; NaN if a vector is zero or not finite.
        """
        n, d = vectors.shape
        found = np.empty((n, self.components.shape[1]), dtype=np.float32)
        with_mean = np.concatenate([self.components, self.mean[:, None]], axis=1)
        of_mean = self.mean @ with_mean
        buffer = np.empty((min(BLOCK, n), d), dtype=np.float32)
        for start in range(0, n, BLOCK):
            rows = slice(start, min(start + BLOCK, n))
            block = buffer[: rows.stop - start]
            to_float32(vectors[rows], block)
            length = np.sqrt(squared_lengths(vectors[rows], block))
            with np.errstate(over="ignore", invalid="ignore"):
                products = (block @ with_mean) / length[:, None]
                apart = 1 - 2 * products[:, -1] + of_mean[-1]
                products = (products - of_mean) / np.sqrt(np.maximum(apart, 1e-12))[:, None]
                found[rows] = unit(products[:, :-1] - self.second)
        return found


def _blocks(vectors: AnyVectors) -> Iterator[Vectors]:
    for start in range(0, len(vectors), FIT_BLOCK):
        yield vectors[start : start + FIT_BLOCK].astype(np.float32)


# -- Draws a random sample of fixed size over all shards, which depends only on the seed.


SAMPLE = 100_000
"""Pairs in the sample: 200 MB for float16 with 512 dimensions on both sides."""

MOST_OF_AN_IMAGE = 50
"""Maximum number of captions of an image in the sample."""


@dataclass(frozen=True)
class SamplePlan:
    """The plan that every shard needs to draw its part of the sample.

    Attributes:
        pairs: Pairs in all shards.
        size: Pairs in the sample.
        seed: Of the run.
    """

    pairs: int
    size: int = SAMPLE
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("pairs", self.pairs, 1, 1 << 48)
        check_whole("size", self.size, 1, 1 << 24)

    @property
    def below(self) -> np.uint64:
        """Images with a smaller hash are drawn. This draws slightly too many, and the merged sample is cut to size."""
        return below((self.size + 4 * self.size**0.5 + 10) / self.pairs)


@dataclass(frozen=True)
class Sample(Stored):
    """Sampled pairs, sorted by the hashes of their images, so that the first n are also a random sample.

    Attributes:
        hash: Hash of each pair's image, shape `(n,)`.
        shard: Shard of each pair, shape `(n,)`.
        row: Row of each pair in its shard, shape `(n,)`.
        owner: Image number of each pair in its shard, shape `(n,)`.
        text: Vectors of the captions, as stored, shape `(n, d)`.
        image: Vectors of the images, as stored, shape `(n, e)`.
        size: Maximum number of pairs to retain.
    """

    hash: Hashes
    shard: Index
    row: Index
    owner: Index
    text: AnyVectors
    image: AnyVectors
    size: int

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def joined(cls, parts: Sequence[Sample]) -> Sample:
        """Merge parts, keeping the pairs with the smallest hashes.

        Raises:
            InputError: If their vectors have different dimensions.
        """
        for side in ("text", "image"):
            if len(sizes := {getattr(part, side).shape[1] for part in parts}) > 1:
                raise InputError(
                    f"vectors of {side} have {' and '.join(map(str, sorted(sizes)))} dimensions: all shards must come "
                    "from one encoder"
                )
        every = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
        size = parts[0].size
        order = np.lexsort((every["row"], every["shard"], every["hash"]))[:size]
        return cls(**{name: values[order] for name, values in every.items()}, size=size)

    def first(self, count: int) -> Sample:
        """Return the first pairs, which are also a random sample."""
        return replace(self, **{name: getattr(self, name)[:count] for name in _COLUMNS})


_COLUMNS = ("hash", "shard", "row", "owner", "text", "image")


def sample_part(shard: VectorShard, plan: SamplePlan) -> Sample:
    """Draw the part of a shard, without rows with a zero or non-finite vector.

    The captions of an image are drawn together, at most 50 of them.
    """
    owner = shard.owner
    hash_ = hashes(plan.seed, "sample", shard.number, owner)
    rows = np.flatnonzero(hash_ <= plan.below)
    if shard.image_of is not None:
        rows = _at_most(rows, owner)
    rows = rows[np.lexsort((rows, hash_[rows]))]
    text, image = np.asarray(shard.text[rows]), np.asarray(shard.image[rows])
    usable = ~(np.isnan(_squares(text)) | np.isnan(_squares(image)))
    rows = rows[usable][: plan.size]
    return Sample(
        hash_[rows],
        np.full(len(rows), shard.number),
        rows,
        owner[rows],
        text[usable][: plan.size],
        image[usable][: plan.size],
        plan.size,
    )


def _at_most(rows: Index, owner: Index) -> Index:
    """Return the first rows of each image."""
    order = np.argsort(owner[rows], kind="stable")
    image = owner[rows][order]
    first = np.searchsorted(image, image)
    return rows[order[np.arange(len(rows)) - first < MOST_OF_AN_IMAGE]]


def _squares(vectors: AnyVectors) -> npt.NDArray[np.float32]:
    converted = np.empty(vectors.shape, dtype=np.float32)
    to_float32(vectors, converted)
    return squared_lengths(vectors, converted)
