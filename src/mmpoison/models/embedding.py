"""Embeds images and captions for measuring: each image once, each distinct caption once, sorted by length.

Captions of equal length share a batch, so that it can be cut at its longest caption without padding the others; for
CLIP's causal text encoder that is exact. Only one batch and the result are held in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from mmpoison.images.preparation import Pixels
from mmpoison.models.batches import Precision, run_in_batches
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, Progress
from mmpoison.pairs.table import IntArray

Embeddings = npt.NDArray[np.float32]


def embed_images(
    encoder: DualEncoder,
    inputs: PairInputs,
    indices: IntArray,
    *,
    batch_size: int = 128,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Embeddings:
    """Embed images: unit embeddings, shape `(n, d)`, in the order of `indices`; each image is embedded once.

    Args:
        encoder: The model.
        inputs: Prepared inputs of the data set.
        indices: Images of the table, repeats allowed, shape `(n,)`.
        batch_size: Images at a time.
        precision: Number format of the computation.
        progress: Called with (done, total).
    """
    rows, inverse = np.unique(inputs.image_rows(indices), return_inverse=True)
    embeddings = run_in_batches(
        encoder,
        rows,
        batch_size,
        inputs.load_images,
        lambda loaded: inputs.encode_images(encoder, loaded),
        precision=precision,
        progress=progress,
    )
    return embeddings[inverse]


def embed_texts(
    encoder: DualEncoder,
    inputs: PairInputs,
    captions: Sequence[str] | npt.NDArray[np.object_],
    *,
    batch_size: int = 256,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Embeddings:
    """Embed prepared captions: unit embeddings, shape `(n, d)`; equal captions are embedded once.

    Args:
        encoder: The model.
        inputs: Prepared inputs of the data set.
        captions: Captions that were prepared, `n` of them.
        batch_size: Captions at a time.
        precision: Number format of the computation.
        progress: Called with (done, total).
    """
    rows, inverse = np.unique(inputs.text_rows(captions), return_inverse=True)
    by_length = rows[np.argsort(inputs.lengths.numpy()[rows], kind="stable")]
    embeddings = run_in_batches(
        encoder,
        by_length,
        batch_size,
        inputs.load_texts,
        lambda loaded: inputs.encode_texts(encoder, loaded),
        precision=precision,
        progress=progress,
    )
    return embeddings[np.argsort(by_length, kind="stable")[inverse]]


def embed_captions(
    encoder: DualEncoder,
    captions: Sequence[str],
    *,
    batch_size: int = 256,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> Embeddings:
    """Embed any captions: unit embeddings, shape `(n, d)`; equal captions are embedded once.

    Args:
        encoder: The model.
        captions: `n` of them; cut at the model's context.
        batch_size: Captions at a time.
        precision: Number format of the computation.
        progress: Called with (done, total).
    """
    if not len(captions):
        return np.empty((0, 0), dtype=np.float32)
    distinct, inverse = np.unique(np.asarray(captions, dtype=object), return_inverse=True)
    tokens = encoder.tokens(distinct.tolist())
    by_length = np.argsort(encoder.token_lengths(tokens).numpy(), kind="stable").astype(np.int64)
    embeddings = run_in_batches(
        encoder,
        by_length,
        batch_size,
        lambda batch: tokens[torch.as_tensor(batch)].long(),
        encoder.encode_text,
        precision=precision,
        progress=progress,
    )
    return embeddings[np.argsort(by_length, kind="stable")[inverse]]


def embed_pixels(encoder: DualEncoder, pixels: Pixels, *, batch_size: int = 128) -> Embeddings:
    """Embed pictures outside a prepared data set: unit embeddings, shape `(n, d)`.

    Args:
        encoder: The model.
        pixels: RGB as `encoder.preparation` makes it, shape `(n, size, size, 3)`.
        batch_size: Pictures at a time.
    """
    return run_in_batches(
        encoder,
        np.arange(len(pixels)),
        batch_size,
        lambda rows: torch.as_tensor(pixels[rows]),
        lambda loaded: encoder.encode_image(encoder.image_input(loaded)),
    )
