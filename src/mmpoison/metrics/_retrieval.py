"""Utility: ranks each caption's own image, and each image's own captions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.metrics._arrays import as_array, as_matrix, unit_rows

_QUERY_ROWS = 1024
"""Queries scored at a time."""

_GALLERY_ROWS = 2048
"""Gallery entries scored at a time; one block of scores is 16 MB."""

_TIE = 1e-12
"""Cosines that differ by less than this tie: equal embeddings differ by summation order."""


def image_retrieval_ranks(
    image_embeddings: npt.ArrayLike,
    text_embeddings: npt.ArrayLike,
    text_image: npt.ArrayLike,
    wording: npt.ArrayLike | None = None,
) -> npt.NDArray[np.int64]:
    """Rank each caption's own image among all images (IR).

    The rank is the number of other images with a higher cosine similarity to the caption than its own image. As in
    `target_ranks`, an image that ties with the caption's own image counts as above it. Cosines are computed in float64,
    block by block, so memory does not grow with T times I.

    If several images have the same caption, a model cannot know which one is meant. Without `wording`, only the
    caption's own image counts (strict). With it, every image that has a caption with the same words counts.

    Source: the paper's evaluation, "Hit@K" of the utility.

    Args:
        image_embeddings: Shape (I, d), each image once; they need not be of unit length.
        text_embeddings: Shape (T, d), one row per caption.
        text_image: Integers, shape (T,): the row of each caption's image, from 0 to I - 1. Images
            without a caption are allowed and serve as distractors.
        wording: Integers, shape (T,), equal for captions with the same words; None for the strict count.

    Returns:
        Shape (T,), int64, 0-based ranks from 0 to I - 1.

    Raises:
        InputError: Shapes do not match, there are no images, an embedding is zero or not finite, or
            `text_image` holds anything but rows of `image_embeddings`.

    Example:
        >>> images = [[1.0, 0.0], [0.0, 1.0]]
        >>> captions = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]
        >>> image_retrieval_ranks(images, captions, [0, 0, 1]).tolist()
        [0, 0, 1]
        >>> image_retrieval_ranks(images, captions, [0, 0, 1], wording=[7, 8, 7]).tolist()
        [0, 0, 0]
    """
    images, texts, owner = _read(image_embeddings, text_embeddings, text_image)
    caption, image = _matching_pairs(wording, owner)
    return _ranks((texts, "text_embeddings"), (images, "image_embeddings"), caption, image)


def text_retrieval_ranks(
    image_embeddings: npt.ArrayLike,
    text_embeddings: npt.ArrayLike,
    text_image: npt.ArrayLike,
    wording: npt.ArrayLike | None = None,
) -> npt.NDArray[np.int64]:
    """For each image, rank the best of its own captions among all captions (TR).

    The rank is the number of other images' captions with a higher cosine similarity to the image than its best own
    caption. A caption that ties with it counts as above it. The image's further captions never count.

    There is one rank per *image*, so Hit@K is a share of images. Other code divides by captions, or queries once per
    caption: with five captions per image this is wrong by a factor of five. With `wording`, other images' captions with
    the same words as one of the image's own also count as its own; see `image_retrieval_ranks`.

    Source: the paper's evaluation, "Hit@K" of the utility.

    Args:
        image_embeddings: Shape (I, d), each image once; they need not be of unit length.
        text_embeddings: Shape (T, d), one row per caption.
        text_image: Integers, shape (T,): the row of each caption's image, from 0 to I - 1, in any
            order; every image has at least one caption.
        wording: As for `image_retrieval_ranks`.

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
    caption, image = _matching_pairs(wording, owner)
    return _ranks((images, "image_embeddings"), (texts, "text_embeddings"), image, caption)


def embedding_ranks(
    query_embeddings: npt.ArrayLike, gallery_embeddings: npt.ArrayLike, targets: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each query, rank the best target in the gallery without computing the full similarity matrix.

    Returns the numbers of `target_ranks` on cosine similarities, with the same tie rule. It is exact and works in
    float64, block by block, so memory does not grow with Q times G.

    Source: the paper's evaluation; "Hit@K" and "MinRank" use these ranks.

    Args:
        query_embeddings: Shape (Q, d); they need not be of unit length.
        gallery_embeddings: Shape (G, d).
        targets: Boolean, shape (G,): the target set, the same for all queries.

    Returns:
        The ranks, shape (Q,), int64, 0-based; and whether the best target ties with an image outside the target set,
        shape (Q,). For those queries the tie rule decides the rank.

    Raises:
        InputError: Shapes do not match, the gallery is empty, there is no target, or an embedding
            is zero or not finite.

    Example:
        >>> gallery = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
        >>> ranks, ties = embedding_ranks([[1.0, 0.1], [0.1, 1.0]], gallery, [True, False, False])
        >>> ranks.tolist(), ties.tolist()
        ([0, 2], [False, False])
    """
    queries = as_matrix(query_embeddings, "query_embeddings", "(Q, d)")
    gallery = as_matrix(gallery_embeddings, "gallery_embeddings", "(G, d)")
    mask = as_array(targets, "targets")
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"query_embeddings {queries.shape} and gallery_embeddings {gallery.shape} differ in d"
        )
    if mask.dtype != np.bool_ or mask.shape != (len(gallery),):
        raise InputError(
            f"targets must be booleans of shape ({len(gallery)},), not {mask.dtype} {mask.shape}"
        )
    if not mask.any():
        raise InputError(f"no target image in targets of shape {mask.shape}")
    sides = (queries, "query_embeddings"), (gallery, "gallery_embeddings")
    for rows, name in sides:
        _refuse_rows_without_direction(rows, name)
    best = np.full(len(queries), -np.inf)
    for block, _, cosines in _cosines(sides[0], (gallery[mask], "gallery_embeddings")):
        best[block] = np.maximum(best[block], cosines.max(axis=1))
    ranks = np.zeros(len(queries), dtype=np.int64)
    ties = np.zeros(len(queries), dtype=np.bool_)
    for block, part, gaps in _cosines(*sides):
        gaps -= best[block, None]
        gaps[:, mask[part]] = -np.inf
        ranks[block] += np.count_nonzero(gaps >= -_TIE, axis=1)
        ties[block] |= (np.abs(gaps) <= _TIE).any(axis=1)
    return ranks, ties


_Side = tuple[npt.NDArray[Any], str]
"""Embeddings (N, d), and their name in error messages."""


def _cosines(
    queries: _Side, gallery: _Side
) -> Iterator[tuple[slice, slice, npt.NDArray[np.float64]]]:
    """Yield cosines block by block: the rows of the queries, the rows of the gallery, and a new array."""
    for top in range(0, len(queries[0]), _QUERY_ROWS):
        block = slice(top, top + _QUERY_ROWS)
        units = unit_rows(queries[0][block], queries[1], top)
        for side in range(0, len(gallery[0]), _GALLERY_ROWS):
            part = slice(side, side + _GALLERY_ROWS)
            yield block, part, units @ unit_rows(gallery[0][part], gallery[1], side).T


def _refuse_rows_without_direction(rows: npt.NDArray[Any], name: str) -> None:
    """Raise for the first row that is zero or not finite."""
    for start in range(0, len(rows), _QUERY_ROWS):
        unit_rows(rows[start : start + _QUERY_ROWS], name, start)


def _matching_pairs(
    wording: npt.ArrayLike | None, owner: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Pair every caption with its image, or with every image that has a caption with the same words; shapes (P,)."""
    if wording is None:
        return np.arange(len(owner)), owner
    numbers = as_array(wording, "wording")
    if numbers.shape != owner.shape or (len(numbers) and numbers.dtype.kind not in "iu"):
        raise InputError(
            f"wording must be integers of shape {owner.shape}, not {numbers.dtype} {numbers.shape}"
        )
    wording = np.unique(numbers, return_inverse=True)[1].astype(np.intp)
    pairs = np.unique(np.stack([wording, owner]), axis=1)  # each wording with each of its images
    first = np.searchsorted(pairs[0], wording, side="left")
    count = np.searchsorted(pairs[0], wording, side="right") - first
    caption = np.repeat(np.arange(len(wording), dtype=np.intp), count)
    within = np.arange(len(caption)) - np.repeat(np.cumsum(count) - count, count)
    return caption, pairs[1][np.repeat(first, count) + within]


def _read(
    image_embeddings: npt.ArrayLike, text_embeddings: npt.ArrayLike, text_image: npt.ArrayLike
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Check the shapes and indices of the three arguments."""
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
            f"text_image of shape {owner.shape} does not match text_embeddings of shape "
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
        _refuse_rows_without_direction(rows, name)
    return images, texts, owner.astype(np.intp)


def _ranks(
    queries: _Side,
    gallery: _Side,
    query_of_pair: npt.NDArray[np.intp],
    gallery_of_pair: npt.NDArray[np.intp],
) -> npt.NDArray[np.int64]:
    """For each query, count the non-matching gallery entries that score at least as high as its best match."""
    best = np.full(len(queries[0]), -np.inf)
    for start in range(0, len(query_of_pair), _QUERY_ROWS):
        left = query_of_pair[start : start + _QUERY_ROWS]
        right = gallery_of_pair[start : start + _QUERY_ROWS]
        units = unit_rows(queries[0][left], queries[1]), unit_rows(gallery[0][right], gallery[1])
        np.maximum.at(best, left, np.einsum("nd,nd->n", *units))
    ranks = np.zeros(len(queries[0]), dtype=np.int64)
    for block, part, cosines in _cosines(queries, gallery):
        row, column = query_of_pair - block.start, gallery_of_pair - part.start
        matched = (row >= 0) & (row < cosines.shape[0]) & (column >= 0)
        matched &= column < cosines.shape[1]
        cosines[row[matched], column[matched]] = -np.inf
        ranks[block] += np.count_nonzero(cosines >= best[block, None] - _TIE, axis=1)
    return ranks
