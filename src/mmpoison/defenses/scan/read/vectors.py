"""Embeds pairs for a method: joint embeddings, or the outputs of the two trunks, from prepared inputs.

Methods that compare captions with captions and images with images take what the trunks give, before the projection
into the shared space: it is the better part for that, and the encoders need not have been aligned with each other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmpoison.base.progress import Progress, ProgressFor
from mmpoison.defenses.scan.read.vector_shard import AnyVectors, Vectors, VectorShard
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_images, embed_texts
from mmpoison.models.inputs import PairInputs, run_in_batches
from mmpoison.pairs.table import PairDataset

BATCH = 128

PIXELS_AT_ONCE = 96 * 2**20
"""Bytes of decoded images in a piece."""

FEWEST_AT_ONCE = 32


def images_at_once(image_size: int) -> int:
    """Return how many images a piece has, so that their pixels take a few megabytes.

    >>> images_at_once(224), images_at_once(64)
    (668, 2000)
    """
    return int(np.clip(PIXELS_AT_ONCE // (image_size * image_size * 3), FEWEST_AT_ONCE, 2000))


def memory_shard(
    encoder: DualEncoder,
    inputs: PairInputs,
    pairs: PairDataset,
    joint: bool,
    progress: ProgressFor | None = None,
) -> VectorShard:
    """Embed pairs in memory.

    Args:
        encoder: The judge.
        inputs: Prepared inputs for it, holding the pairs.
        pairs: The pairs.
        joint: Whether embeddings are compared across modalities.
        progress: Returns a progress callback for a named step.
    """
    text, image = embed_pairs(encoder, inputs, pairs, joint=joint, progress=progress)
    owner = np.unique(pairs.image, return_inverse=True)[1]
    return VectorShard(0, text, image, owner, pairs.captions)


def embed_pairs(
    encoder: DualEncoder,
    inputs: PairInputs,
    pairs: PairDataset,
    *,
    joint: bool = True,
    progress: ProgressFor | None = None,
) -> tuple[AnyVectors, AnyVectors]:
    """Return the vectors of the caption and of the image of each pair, both of shape `(N, d)`.

    Each image and each distinct caption is embedded once, however many pairs it is in.

    Args:
        encoder: The model.
        inputs: Prepared inputs for it, holding the pairs.
        pairs: The pairs.
        joint: Joint embeddings, unit vectors in float32; otherwise the outputs of the trunks, filled up with zeros to
            one length, unit vectors in float16.
        progress: Returns a progress callback for a named step.
    """
    captions, caption_of = np.unique(pairs.captions.astype(str), return_inverse=True)
    images, image_of = np.unique(pairs.image, return_inverse=True)
    sides = distinct_vectors(
        encoder, inputs, captions.astype(object), images, joint=joint, progress=progress
    )
    return sides[0][caption_of], sides[1][image_of]


def distinct_vectors(
    encoder: DualEncoder,
    inputs: PairInputs,
    captions: npt.NDArray[np.object_],
    images: npt.NDArray[np.int32],
    *,
    joint: bool,
    progress: ProgressFor | None = None,
) -> tuple[AnyVectors, AnyVectors]:
    """Return the vectors of captions and of images, as `embed_pairs` does, `(n, d)` and `(m, d)`."""
    report = {
        side: progress(f"judging {side}") if progress else None for side in ("images", "captions")
    }
    if joint:
        image = embed_images(encoder, inputs, images, progress=report["images"])
        return embed_texts(encoder, inputs, captions, progress=report["captions"]), image
    text = caption_features(encoder, inputs, captions, report["captions"])
    image = image_features(encoder, inputs, images, report["images"])
    width = max(text.shape[1], image.shape[1])
    return _stored(text, width), _stored(image, width)


def caption_features(
    encoder: DualEncoder,
    inputs: PairInputs,
    captions: npt.NDArray[np.object_],
    progress: Progress | None = None,
) -> Vectors:
    """Compute the outputs of the text trunk for captions, shape `(n, f)`, in their order."""
    rows = inputs.text_rows(captions)
    return run_in_batches(
        encoder,
        rows,
        BATCH,
        inputs.load_texts,
        lambda loaded: inputs.text_trunk(encoder, loaded),
        lengths=inputs.lengths.numpy()[rows],
        progress=progress,
    )


def image_features(
    encoder: DualEncoder,
    inputs: PairInputs,
    images: npt.NDArray[np.int32],
    progress: Progress | None = None,
) -> Vectors:
    """Compute the outputs of the image trunk for images, shape `(n, f)`, in their order."""
    return run_in_batches(
        encoder,
        inputs.image_rows(images),
        BATCH,
        inputs.load_images,
        lambda loaded: inputs.image_trunk(encoder, loaded),
        progress=progress,
    )


def _stored(vectors: Vectors, width: int) -> npt.NDArray[np.float16]:
    """Return unit vectors of a width, in float16."""
    found = np.zeros((len(vectors), width), dtype=np.float32)
    found[:, : vectors.shape[1]] = vectors
    length = np.linalg.norm(found, axis=1, keepdims=True)
    half: npt.NDArray[np.float16] = (found / np.maximum(length, np.float32(1e-12))).astype(
        np.float16
    )
    return half
