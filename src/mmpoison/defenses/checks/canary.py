"""Measures how strongly kinds of captions retrieve kinds of images, and which of these associations a repair weakens.

Poison makes captions of one kind find images of another among the first. A fine-tune on clean pairs weakens that
association within few steps, and few others that were as strong. So an owner who does not know the goal does not ask
how far anything has moved, but whether twice the steps still weaken an association that has weakened unusually much.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.base.seeding import generator
from mmpoison.defenses.filters.suspicious_groups.describe import Vocabulary
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet

Table = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

CONSPICUOUS = 6.0
"""A rise of the rank is unusual from so many robust standard deviations of all rises on."""

SUSPECT = 4.0
"""As `CONSPICUOUS`, for training on: a step too many costs little, one too few leaves poison."""

STILL = 0.5
"""In doublings of the rank: less than that is no movement."""

LEAST_RISE = 1.0
"""In doublings of the rank: a smaller rise never stands out, however still all the others are."""

SEEN = 10
"""Only associations with a typical rank of at most this count: nobody sees what is further down."""

LEAST_SPREAD = 0.05
NEIGHBOURS = 8
IMAGES_A_CLUSTER = 5
MOST_CLUSTERS = 60
MOST_KINDS = 300
FEWEST_CLASSES = 4
FEWEST_IMAGES = 40
ROWS = 1024
TERMS = 3


@dataclass(frozen=True)
class Kinds:
    """Kinds of captions and of images among the held-out pairs.

    Attributes:
        captions: Share of each image's captions in each kind of caption, rows of sum 1, shape `(A, G)`.
        image: Kind of each image, -1 for none, shape `(G,)`.
        caption_names: Of the kinds of captions.
        image_names: Of the kinds of images.
        of: `classes`, or `neighbours` where the pairs carry no labels.
    """

    captions: Table
    image: Index
    caption_names: tuple[str, ...]
    image_names: tuple[str, ...]
    of: str

    @classmethod
    def find(cls, held_out: TestSet, embeddings: TestEmbeddings, seed: int) -> Kinds:
        """Take the classes where most of the images have one, else group by the suspect's own embeddings.

        Without labels, a kind of caption is the captions of an image and of its nearest neighbours by captions; such
        kinds overlap, so that one of them is pure. Kinds of images are small clusters (k-means).

        Args:
            held_out: The held-out pairs; every image of the gallery has a caption.
            embeddings: Of the suspect.
            seed: Seed of the clustering.

        Raises:
            InputError: If there are too few images to find kinds.
        """
        images = len(held_out.gallery)
        codes = held_out.pairs.images.class_codes[held_out.gallery]
        there = np.unique(codes[codes >= 0])
        if len(there) >= FEWEST_CLASSES and (codes >= 0).mean() > 0.5:
            names = tuple(held_out.pairs.classes[code] for code in there)
            shares = (codes == there[:, None]).astype(np.float64)
            image = np.where(codes >= 0, np.searchsorted(there, codes), -1).astype(np.intp)
            return cls(shares / shares.sum(axis=1, keepdims=True), image, names, names, "classes")
        if images < FEWEST_IMAGES:
            raise InputError(
                f"{images} held-out images are too few to find kinds of them: {FEWEST_IMAGES} are needed, or labels"
            )
        owner = held_out.caption_image
        means = _by_image(embeddings.texts.astype(np.float64), owner, images)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        centres = np.sort(generator(seed, "canary/kinds").permutation(images)[:MOST_KINDS])
        near = np.argsort(-(means[centres] @ means.T), axis=1, kind="stable")[:, :NEIGHBOURS]
        shares = np.zeros((len(centres), images))
        np.put_along_axis(shares, near, 1 / NEIGHBOURS, axis=1)
        size = min(MOST_CLUSTERS, images // IMAGES_A_CLUSTER)
        image = _clusters(embeddings.images, size, seed)
        said = [""] * images
        for caption, at in zip(held_out.pairs.captions, owner, strict=True):
            said[at] += f" {caption}"
        words = Vocabulary(said, [1] * images)

        def name_of(some: Index) -> str:
            return "/".join(words.terms(some.tolist())[:TERMS]) or "no words"

        return cls(
            shares,
            image,
            tuple(name_of(row) for row in near),
            tuple(name_of(np.flatnonzero(image == kind)) for kind in range(int(image.max()) + 1)),
            "neighbours",
        )


@dataclass(frozen=True)
class Rise:
    """A rise of the rank at which captions of one kind find images of another.

    Attributes:
        captions: The kind of caption, a class or the words that set it apart.
        images: The kind of image.
        before: Typical rank of the first such image before (geometric mean, 0-based).
        after: The same after.
        z: How far the rise stands out from the others, in robust standard deviations.
    """

    captions: str
    images: str
    before: float
    after: float
    z: float

    def __str__(self) -> str:
        return (
            f"captions of {self.captions} no longer retrieve images of {self.images} first: "
            f"typical rank {self.before:.1f} before, {self.after:.1f} after"
        )


def association(embeddings: TestEmbeddings, held_out: TestSet, kinds: Kinds) -> Table:
    """Measure how far down captions of each kind find the first image of each kind.

    Args:
        embeddings: Of the held-out pairs.
        held_out: The held-out pairs.
        kinds: Their kinds.

    Returns:
        Mean of log2(1 + rank), shape `(A, B)`: 0 where the images come first, one more for each doubling of the rank.
    """
    of_images = len(kinds.image_names)
    ranks = np.empty((len(held_out.pairs), of_images))
    for start in range(0, len(ranks), ROWS):
        rows = np.arange(start, min(start + ROWS, len(ranks)), dtype=np.int32)
        order = np.argsort(-embeddings.similarity(rows), axis=1, kind="stable")
        found = kinds.image[order]
        for kind in range(of_images):
            ranks[rows, kind] = (found == kind).argmax(axis=1)
    owner = held_out.caption_image
    per_image = _by_image(np.log2(1 + ranks), owner, len(held_out.gallery))
    per_image /= np.bincount(owner, minlength=len(held_out.gallery))[:, None]
    return np.asarray(kinds.captions @ per_image)


def rises(before: Table, after: Table, kinds: Kinds) -> list[Rise]:
    """Give, for each kind of image that was among the first, the largest rise of its rank; the most unusual first.

    Args:
        before: `association` before, shape `(A, B)`.
        after: And after.
        kinds: The kinds.
    """
    z = _z(before, after)
    return _by_kind_of_image(z, before, after, z, kinds)


def still_weakening(start: Table, half: Table, now: Table, kinds: Kinds) -> list[Rise]:
    """Give associations that have weakened unusually much since the start, and still weaken since half the steps.

    Args:
        start: `association` of the suspect, shape `(A, B)`.
        half: After half the steps.
        now: After all of them.
        kinds: The kinds.
    """
    z = _z(start, now)
    moving = np.where((z > SUSPECT) & (now - half >= STILL), z, -np.inf)
    return _by_kind_of_image(moving, half, now, z, kinds)


def _z(before: Table, after: Table) -> Table:
    """Convert rises to robust standard deviations of all rises of associations seen before; -inf if there were none."""
    rise, seen = after - before, before <= np.log2(1 + SEEN)
    return np.where(seen, robust_z(rise, rise[seen]), -np.inf) if seen.any() else seen - np.inf


def _by_kind_of_image(
    order: Table, before: Table, after: Table, z: Table, kinds: Kinds
) -> list[Rise]:
    # kinds of captions overlap: one of them represents the similar ones
    found = [
        Rise(
            kinds.caption_names[a],
            kinds.image_names[b],
            float(2 ** before[a, b] - 1),
            float(2 ** after[a, b] - 1),
            float(z[a, b]),
        )
        for b, a in enumerate(order.argmax(axis=0))
        if order[a, b] > -np.inf
    ]
    return sorted(found, key=lambda one: -one.z)


def conspicuous(found: Iterable[Rise]) -> list[Rise]:
    """Keep the rises that are unusual: far from all others, and at least a doubling of the rank."""
    return [
        one
        for one in found
        if one.z > CONSPICUOUS and np.log2((1 + one.after) / (1 + one.before)) >= LEAST_RISE
    ]


def robust_z(values: npt.ArrayLike, usual: npt.ArrayLike) -> Table:
    """Give values in robust standard deviations (1.4826 times the median absolute deviation) of usual ones.

    >>> robust_z([2.0, 104.0], [0.0, 1.0, 2.0, 3.0, 104.0]).round(2).tolist()
    [0.0, 68.8]
    """
    table, others = np.asarray(values, dtype=np.float64), np.asarray(usual, dtype=np.float64)
    centre = np.median(others)
    spread = 1.4826 * float(np.median(np.abs(others - centre)))
    return np.asarray((table - centre) / max(spread, LEAST_SPREAD))


def _by_image(rows: Table, owner: npt.NDArray[np.int64], images: int) -> Table:
    """Sum the rows of each image's captions, shape `(images, n)`."""
    sums = np.zeros((images, rows.shape[1]))
    np.add.at(sums, owner, rows)
    return sums


def _clusters(vectors: npt.NDArray[np.float32], size: int, seed: int) -> Index:
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty cluster is left out below
        found = kmeans2(
            vectors.astype(np.float64), size, minit="++", seed=generator(seed, "canary/images")
        )[1]
    return np.unique(found, return_inverse=True)[1].astype(np.intp)
