"""Embeds a gallery or its captions with one model, caches the result, and indexes it with faiss."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmpoison.base.array_files import read_arrays
from mmpoison.base.files import atomic_file
from mmpoison.errors import InputError
from mmpoison.images.sources import image_stat
from mmpoison.images.store import PixelStore
from mmpoison.pairs.table import IntArray, PairDataset

if TYPE_CHECKING:
    # torch takes seconds to import, and the page opens before that
    from mmpoison.evaluation.gallery_index import GalleryIndex
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.embedding import Embeddings

DEPTH = 1000
"""The largest rank that is computed; the page shows lower results as "beyond rank ..."."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ranking:
    """The first items of one model for one query, best first.

    Attributes:
        items: Shape `(n,)`: images of the table, or rows of the captions.
        similarity: Cosine similarity of each, shape `(n,)`.
        size: Number of searched items.
    """

    items: IntArray
    similarity: Embeddings
    size: int


@dataclass(frozen=True)
class Indexed:
    """Items that can be searched.

    Attributes:
        items: The item of each row of the index, shape `(G,)`.
        index: Finds the nearest rows.
    """

    items: IntArray
    index: GalleryIndex

    @classmethod
    def build(cls, items: IntArray, embeddings: Embeddings, queries: Embeddings) -> Indexed:
        """Index embeddings, shape `(G, d)`; `queries`, shape `(Q, d)`, are typical queries to tune the index with."""
        from mmpoison.evaluation.gallery_index import GalleryIndex

        return cls(items, GalleryIndex.build(embeddings, queries, k=min(DEPTH, len(items))))

    def search(self, query: Embeddings) -> Ranking:
        """Find the first items for one unit embedding, shape `(1, d)`."""
        similarity, rows = self.index.search(query)
        found = rows[0] >= 0
        return Ranking(self.items[rows[0][found]], similarity[0][found], len(self.items))


@dataclass(frozen=True)
class EmbeddedImages:
    """Images of a gallery under one model.

    Attributes:
        images: The readable ones, indices into the table, shape `(G,)`.
        embeddings: Shape `(G, d)`.
        unreadable: Number of unreadable images.
    """

    images: IntArray
    embeddings: Embeddings
    unreadable: int


def embed_gallery(
    encoder: DualEncoder,
    pairs: PairDataset,
    gallery: IntArray,
    *,
    cache: Path,
    decode: Callable[[], PixelStore],
    progress: Progress | None = None,
) -> EmbeddedImages:
    """Embed the images of a gallery, or read cached embeddings of the same weights and files.

    Args:
        encoder: The model.
        pairs: The data set.
        gallery: Images, shape `(G,)`.
        cache: Folder of cached embeddings.
        decode: Decodes the pixels without broken images; called only if they are needed.
        progress: Called with (done, total).

    Raises:
        InputError: If no image can be read.
    """
    from mmpoison.models.embedding import embed_images
    from mmpoison.models.inputs import prepare_pixels

    stored = cache / f"gallery-{_key(encoder, _files(pairs, gallery))}.npz"
    kept = read_arrays(stored, "images", "embeddings")
    if kept is not None:
        images, embeddings = kept
        return EmbeddedImages(images, embeddings, len(gallery) - len(images))
    pixels = decode()
    images = gallery[pixels.position[gallery] >= 0]
    if not len(images):
        raise InputError(
            f"none of the {len(gallery):,} images can be read: `mmpoison data verify` shows why"
        )
    bare = pairs.where(np.zeros(len(pairs), dtype=bool))
    inputs = prepare_pixels(encoder, bare, images=images, pixels=pixels)
    embeddings = embed_images(encoder, inputs, images, progress=progress)
    with atomic_file(stored) as temporary, temporary.open("wb") as stream:
        np.savez(stream, images=images, embeddings=embeddings)
    return EmbeddedImages(images, embeddings, len(gallery) - len(images))


def embed_captions_kept(
    encoder: DualEncoder, captions: Sequence[str], *, cache: Path, progress: Progress | None = None
) -> Embeddings:
    """Embed captions, or read the cached embeddings: unit embeddings, shape `(n, d)`."""
    from mmpoison.models.embedding import embed_captions

    digest = hashlib.sha256()
    for caption in captions:
        digest.update(caption.encode("utf-8", "surrogateescape") + b"\0")
    stored = cache / f"captions-{_key(encoder, digest.hexdigest())}.npz"
    kept = read_arrays(stored, "embeddings")
    if kept is not None:
        return kept[0]
    embeddings = embed_captions(encoder, captions, progress=progress)
    with atomic_file(stored) as temporary, temporary.open("wb") as stream:
        np.savez(stream, embeddings=embeddings)
    return embeddings


def _key(encoder: DualEncoder, content: str) -> str:
    """Return the cache key: a digest of everything that decides the embeddings."""
    from mmpoison.models.compute_environment import compute_environment
    from mmpoison.models.inputs import preparation_key

    parts = {
        "computed": compute_environment(encoder.device, __name__),
        "weights": encoder.digest(),
        # what weights alone do not say: activation, pooling, context
        "model": encoder.config.get("model_cfg"),
        "preparation": preparation_key(encoder),
        "content": content,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _files(pairs: PairDataset, images: IntArray) -> str:
    """Digest the state of image files; a missing one is no error here, it is left out of the gallery."""
    digest = hashlib.sha256()
    for index in images:
        try:
            found = " ".join(map(str, image_stat(pairs.root, pairs.images.ids[index])))
        except (InputError, OSError):
            found = "missing"
        digest.update(f"{index} {found}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
