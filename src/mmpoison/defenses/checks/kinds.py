"""Measures how strongly kinds of captions retrieve kinds of images, where the goal of an attack is not known."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmpoison.base.seeding import generator
from mmpoison.defenses.filters.suspicious_groups.describe import Vocabulary
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet

Table = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

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
