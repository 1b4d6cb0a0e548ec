"""Embeds pairs for a method from preprocessed inputs: joint embeddings, or the outputs of the two trunks.

Methods that compare captions with captions and images with images use the trunks' outputs, before the projection into
the shared space. These work better for that purpose, and the encoders need not be aligned.
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
    """Return the number of images per piece for which their pixels fit into `PIXELS_AT_ONCE`.

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
        inputs: Inputs of the pairs, preprocessed for it.
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
    """Return caption and image vectors of each pair, both of shape `(N, d)`.

    Each image and each distinct caption is embedded only once, however many pairs contain it.

    Args:
        encoder: The model.
        inputs: Inputs of the pairs, preprocessed for it.
        pairs: The pairs.
        joint: Return joint embeddings, as float32 unit vectors; otherwise the outputs of the trunks, padded with zeros
            to equal length, as float16 unit vectors.
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
    """Return the vectors of captions and images, like `embed_pairs`; shapes `(n, d)` and `(m, d)`."""
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
    """Compute the text trunk's outputs for captions, shape `(n, f)`, in order."""
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
    """Compute the image trunk's outputs for images, shape `(n, f)`, in order."""
    return run_in_batches(
        encoder,
        inputs.image_rows(images),
        BATCH,
        inputs.load_images,
        lambda loaded: inputs.image_trunk(encoder, loaded),
        progress=progress,
    )


def _stored(vectors: Vectors, width: int) -> npt.NDArray[np.float16]:
    """Return float16 unit vectors, padded to a width."""
    found = np.zeros((len(vectors), width), dtype=np.float32)
    found[:, : vectors.shape[1]] = vectors
    length = np.linalg.norm(found, axis=1, keepdims=True)
    half: npt.NDArray[np.float16] = (found / np.maximum(length, np.float32(1e-12))).astype(
        np.float16
    )
    return half
