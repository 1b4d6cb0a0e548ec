"""Embeds a gallery or its captions with one model, caches the embeddings, and searches them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.progress import Progress
from mmpoison.errors import InputError
from mmpoison.images.store import PixelStore
from mmpoison.pairs.table import IntArray, PairDataset

if TYPE_CHECKING:
    # torch takes seconds to import, and the page opens before that
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.embedding import Embeddings

DEPTH = 1000
"""The largest rank that is computed; the page shows lower results as "beyond rank ..."."""


@dataclass(frozen=True)
class Ranking:
    """The best items for one query under one model, best first.

    Attributes:
        items: Shape `(n,)`: images of the table, or rows of the captions.
        similarity: Cosine similarity of each, shape `(n,)`.
        size: Number of searched items.
    """

    items: IntArray
    similarity: Embeddings
    size: int


@dataclass(frozen=True)
class Searchable:
    """Items and their embeddings. A search compares all of them with the query, so it is exact.

    Attributes:
        items: The item of each row, shape `(G,)`.
        embeddings: Unit vectors, shape `(G, d)`.
    """

    items: IntArray
    embeddings: Embeddings

    def search(self, query: Embeddings) -> Ranking:
        """Find the best items for one embedding, shape `(1, d)`; ties go to the earlier row."""
        similarity = self.embeddings @ query[0]
        depth = min(DEPTH, len(similarity))
        # includes all ties with the last one, so that they do not depend on the partition
        last = np.partition(similarity, -depth)[-depth]
        rows = np.flatnonzero(similarity >= last)
        rows = rows[np.argsort(-similarity[rows], kind="stable")][:depth]
        return Ranking(self.items[rows], similarity[rows], len(self.items))


def searchable_images(
    encoder: DualEncoder,
    pairs: PairDataset,
    gallery: IntArray,
    *,
    cache: Path | None,
    progress: Progress | None = None,
) -> Searchable:
    """Embed the readable images of a gallery, or read cached embeddings of the same weights and files.

    Args:
        encoder: The model.
        pairs: The data set.
        gallery: Images, shape `(G,)`.
        cache: Folder of a content cache; the usual one by default.
        progress: Called with (done, total), for decoding and then for embedding.

    Raises:
        InputError: If no image can be read.
    """
    from mmpoison.models.embedding import embed_images
    from mmpoison.models.inputs import prepare_pixels, present_files_digest

    def compute() -> dict[str, npt.NDArray[Any]]:
        pixels = PixelStore.decode(
            pairs, encoder.preparation, indices=gallery, broken="drop", progress=progress
        )
        images = gallery[pixels.position[gallery] >= 0]
        if not len(images):
            raise InputError(
                f"none of the {len(gallery):,} images can be read: `mmpoison data verify` shows why"
            )
        bare = pairs.where(np.zeros(len(pairs), dtype=bool))
        inputs = prepare_pixels(encoder, bare, images=images, pixels=pixels)
        return {
            "images": images,
            "embeddings": embed_images(encoder, inputs, images, progress=progress),
        }

    # cached rows are indices into the table, so they are part of the key
    rows = hashlib.sha256(gallery.tobytes()).hexdigest()
    key = search_key(encoder, "images", f"{rows} {present_files_digest(pairs, gallery)[0]}")
    return Searchable(*ContentCache(cache).arrays(key, compute, "images", "embeddings"))


def searchable_captions(
    encoder: DualEncoder,
    captions: Sequence[str],
    *,
    cache: Path | None,
    progress: Progress | None = None,
) -> Searchable:
    """Embed captions, or read the cached embeddings; items are rows of `captions`."""
    from mmpoison.models.embedding import embed_captions
    from mmpoison.models.inputs import texts_digest

    (embeddings,) = ContentCache(cache).arrays(
        search_key(encoder, "captions", texts_digest(captions)),
        lambda: {"embeddings": embed_captions(encoder, captions, progress=progress)},
        "embeddings",
    )
    return Searchable(np.arange(len(embeddings), dtype=np.int32), embeddings)


def search_key(encoder: DualEncoder, what: str, content: str) -> CacheKey:
    """Return the cache key: everything that the embeddings of a gallery or captions depend on."""
    from mmpoison.models.compute_environment import compute_environment, encoder_identity

    parts = {
        "computed": compute_environment(encoder.device),
        **encoder_identity(encoder),
        "what": what,
        "content": content,
    }
    return CacheKey("search", parts, f"{what} under {encoder.name}")
