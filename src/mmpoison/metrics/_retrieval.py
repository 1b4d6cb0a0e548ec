"""Utility: does the model still find a caption's image, and an image's captions?"""

from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.metrics._arrays import as_array, as_matrix, unit_rows

_QUERY_ROWS = 1024
"""Queries scored together."""

_GALLERY_ROWS = 2048
"""Gallery entries scored together: a block of scores is 16 MB."""

_TIE = 1e-12
"""Cosines within this are a tie: equal embeddings score equal up to the order of summation."""


def image_retrieval_ranks(
    image_embeddings: npt.ArrayLike, text_embeddings: npt.ArrayLike, text_image: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """Ranks, for each caption, its own image among all images (IR).

    The rank is the number of other images whose cosine similarity to the caption is higher than
    that of its own; as in `target_ranks`, an image that ties with the own one counts as above it.
    Cosines are computed in float64, block by block, so memory does not grow with T times I.

    Source: the paper's evaluation, "Hit@K" of the utility.

    Args:
        image_embeddings: Shape (I, d), each image once; they need not be of unit length.
        text_embeddings: Shape (T, d), one row a caption.
        text_image: Integers, shape (T,): the row of each caption's image, from 0 to I - 1. Images
            without a caption are allowed and serve as distractors.

    Returns:
        Shape (T,), int64, 0-based ranks from 0 to I - 1.

    Raises:
        InputError: Shapes do not fit, there are no images, an embedding is zero or not finite, or
            `text_image` holds anything but rows of `image_embeddings`.

    Example:
        >>> images = [[1.0, 0.0], [0.0, 1.0]]
        >>> captions = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]
        >>> image_retrieval_ranks(images, captions, [0, 0, 1]).tolist()
        [0, 0, 1]
    """
    images, texts, owner = _read(image_embeddings, text_embeddings, text_image)
    return _ranks(
        (texts, "text_embeddings", np.arange(len(texts))), (images, "image_embeddings", owner)
    )


def text_retrieval_ranks(
    image_embeddings: npt.ArrayLike, text_embeddings: npt.ArrayLike, text_image: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """Ranks, for each image, the best of its own captions among all captions (TR).

    The rank is the number of other images' captions whose cosine similarity to the image is higher
    than that of its best own caption; a caption that ties with it counts as above it. The image's
    further captions never count.

    There is one rank an *image*, so Hit@K is a share of images. Dividing by captions instead, or
    querying once a caption, is a bug seen in other code: with five captions an image it is wrong
    by a factor of five.

    Source: the paper's evaluation, "Hit@K" of the utility.

    Args:
        image_embeddings: Shape (I, d), each image once; they need not be of unit length.
        text_embeddings: Shape (T, d), one row a caption.
        text_image: Integers, shape (T,): the row of each caption's image, from 0 to I - 1, in any
            order; every image has at least one caption.

    Returns:
        Shape (I,), int64, 0-based ranks from 0 to T - 1.

    Raises:
        InputError: As `image_retrieval_ranks`, or an image has no caption.

    Example:
        >>> images = [[1.0, 0.0], [0.0, 1.0]]
        >>> captions = [[0.9, 0.1], [0.3, 0.7], [0.8, 0.2]]
        >>> text_retrieval_ranks(images, captions, [0, 0, 1]).tolist()
        [0, 1]
    """
    images, texts, owner = _read(image_embeddings, text_embeddings, text_image)
    captions = np.bincount(owner, minlength=len(images))
    if not captions.all():
        raise InputError(
            f"image {int(captions.argmin())} has no caption: {int((captions == 0).sum())} of "
            f"{len(images)} images, text_image of shape {owner.shape}"
        )
    return _ranks(
        (images, "image_embeddings", owner), (texts, "text_embeddings", np.arange(len(texts)))
    )


_Side = tuple[npt.NDArray[Any], str, npt.NDArray[np.intp]]
"""Embeddings (N, d), their name in errors, and the row of each matching pair (T,)."""


def _read(
    image_embeddings: npt.ArrayLike, text_embeddings: npt.ArrayLike, text_image: npt.ArrayLike
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.intp]]:
    """The three arguments, with shapes and indices checked."""
    images = as_matrix(image_embeddings, "image_embeddings", "(I, d)")
    texts = as_matrix(text_embeddings, "text_embeddings", "(T, d)")
    owner = as_array(text_image, "text_image")
    if len(images) == 0:
        raise InputError(f"image_embeddings holds no images: shape {images.shape}")
    if images.shape[1] != texts.shape[1]:
        raise InputError(
            f"image_embeddings {images.shape} and text_embeddings {texts.shape} differ in d"
        )
    if owner.shape != (len(texts),):
        raise InputError(
            f"text_image of shape {owner.shape} does not fit text_embeddings of shape "
            f"{texts.shape}: expected (T,)"
        )
    if len(owner) and owner.dtype.kind not in "iu":
        raise InputError(f"text_image must be integers, not {owner.dtype}; shape {owner.shape}")
    if len(owner) and (owner.min() < 0 or owner.max() >= len(images)):
        raise InputError(
            f"text_image holds {owner.min()} to {owner.max()}, but image_embeddings of shape "
            f"{images.shape} has rows 0 to {len(images) - 1}"
        )
    for rows, name in ((images, "image_embeddings"), (texts, "text_embeddings")):
        for start in range(0, len(rows), _QUERY_ROWS):
            unit_rows(rows[start : start + _QUERY_ROWS], name, start)  # raises for the row it names
    return images, texts, owner.astype(np.intp)


def _ranks(queries: _Side, gallery: _Side) -> npt.NDArray[np.int64]:
    """Counts, for each query, unmatched gallery entries that score at least its best match."""
    query_rows, query_name, query_of_pair = queries
    gallery_rows, gallery_name, gallery_of_pair = gallery
    best = np.full(len(query_rows), -np.inf)
    for start in range(0, len(query_of_pair), _QUERY_ROWS):
        left = query_of_pair[start : start + _QUERY_ROWS]
        right = gallery_of_pair[start : start + _QUERY_ROWS]
        cosines = np.einsum(
            "nd,nd->n",
            unit_rows(query_rows[left], query_name),
            unit_rows(gallery_rows[right], gallery_name),
        )
        np.maximum.at(best, left, cosines)
    ranks = np.zeros(len(query_rows), dtype=np.int64)
    for top in range(0, len(query_rows), _QUERY_ROWS):
        block = slice(top, top + _QUERY_ROWS)
        units = unit_rows(query_rows[block], query_name, top)
        needed = best[block, None] - _TIE
        here = (query_of_pair >= top) & (query_of_pair < top + _QUERY_ROWS)
        pair_query, pair_gallery = query_of_pair[here] - top, gallery_of_pair[here]
        for side in range(0, len(gallery_rows), _GALLERY_ROWS):
            part = gallery_rows[side : side + _GALLERY_ROWS]
            above = units @ unit_rows(part, gallery_name, side).T >= needed
            inside = (pair_gallery >= side) & (pair_gallery < side + len(part))
            above[pair_query[inside], pair_gallery[inside] - side] = False
            ranks[block] += above.sum(axis=1)
    return ranks
