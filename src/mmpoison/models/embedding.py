"""Embeds images and captions for measuring: each image once, each distinct caption once, sorted by length.

Captions of equal length share a batch, so that it can be cut at its longest caption without padding the others; for
CLIP's causal text encoder that is exact. Only one batch and the result are held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmpoison.base.progress import Progress, ProgressFor
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.models.compute_environment import compute_environment, encoder_identity
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import (
    PairInputs,
    PixelInputs,
    Precision,
    evaluation_mode,
    prepare_pixels,
    run_in_batches,
)
from mmpoison.pairs.table import IntArray, PairDataset

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
    embeddings = run_in_batches(
        encoder,
        rows,
        batch_size,
        inputs.load_texts,
        lambda loaded: inputs.encode_texts(encoder, loaded),
        lengths=inputs.lengths.numpy()[rows],
        precision=precision,
        progress=progress,
    )
    return embeddings[inverse]


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
    embeddings = run_in_batches(
        encoder,
        np.arange(len(distinct)),
        batch_size,
        lambda batch: tokens[torch.as_tensor(batch)].long(),
        encoder.encode_text,
        lengths=encoder.token_lengths(tokens).numpy(),
        precision=precision,
        progress=progress,
    )
    return embeddings[inverse]


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


# -- Embeds images and captions for an attack: attack I's centre of a class, and attackers who know a
# surrogate.


AT_ONCE = 512
"""Images whose pixels are in memory at once."""

DIFFERENTIATED = 16
"""Images that are differentiated at once: few, so that the blocks of memory are small enough to be used again."""


class Embedder:
    """A dual encoder as attacks take it (`mmpoison.attacks.surrogate.PixelSurrogate`).

    Args:
        encoder: The model.
        progress: Gives a progress callback for a named step.
    """

    def __init__(self, encoder: DualEncoder, progress: ProgressFor | None = None) -> None:
        self._encoder, self._progress = encoder, progress

    def __call__(self, pairs: PairDataset, images: IntArray) -> Embeddings:
        """Embed images by their indices `(n,)`: unit embeddings `(n, d)`."""
        parts: list[Embeddings] = []
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            inputs = self._inputs(pairs, part)
            parts.append(embed_images(self._encoder, inputs, part))
        return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)

    def captions(self, captions: Sequence[str]) -> Embeddings:
        """Embed captions: unit embeddings `(n, d)`."""
        progress = self._progress("embedding captions") if self._progress else None
        return embed_captions(self._encoder, captions, progress=progress)

    @property
    def name(self) -> str:
        """Name of the encoder."""
        return self._encoder.name

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Weights, architecture and preparation of the encoder, and what computes it, as JSON values."""
        computed = compute_environment(self._encoder.device)
        return {**encoder_identity(self._encoder), "computed": computed}

    @property
    def preparation(self) -> Preparation:
        """How images are resized and cropped for the encoder."""
        return self._encoder.preparation

    @property
    def logit_scale(self) -> float:
        """What the encoder's loss multiplies cosines with."""
        return float(self._encoder.logit_scale.detach().exp())

    def pixels(self, pairs: PairDataset, images: IntArray) -> Pixels:
        """Prepare images by their indices `(n,)` for the encoder: RGB `(n, size, size, 3)`."""
        return self._inputs(pairs, images).pixels.take(images)

    def differentiate(
        self, pixels: npt.NDArray[np.float32]
    ) -> tuple[Embeddings, Callable[[Embeddings], npt.NDArray[np.float32]]]:
        """Embed pixels, and give the function that pulls a gradient back to them; no weight changes.

        Args:
            pixels: RGB in [0, 255], shape `(n, size, size, 3)`.

        Returns:
            Unit embeddings `(n, d)`; and a function from the gradient of a loss by them, same shape, to the gradient by
            the pixels, shape as `pixels`. It can be called once.
        """
        encoder = self._encoder
        leaves, parts = [], []
        with evaluation_mode(encoder), torch.enable_grad():
            for start in range(0, len(pixels), DIFFERENTIATED):
                part = pixels[start : start + DIFFERENTIATED]
                leaf = torch.tensor(part, dtype=torch.float32, device=encoder.device)
                leaves.append(leaf.requires_grad_())
                # a copy, since the input is normalised in place
                parts.append(encoder.encode_image(encoder.image_input(leaf.clone())))

        def pull_back(gradient: Embeddings) -> npt.NDArray[np.float32]:
            weights = torch.as_tensor(gradient, dtype=parts[0].dtype, device=parts[0].device)
            by_pixels = torch.autograd.grad(
                parts, leaves, list(torch.split(weights, DIFFERENTIATED))
            )
            return np.asarray(torch.cat(by_pixels).cpu().numpy())

        return torch.cat(parts).detach().cpu().numpy(), pull_back

    def _inputs(self, pairs: PairDataset, images: IntArray) -> PixelInputs:
        # captions are not needed
        bare = pairs.where(np.zeros(len(pairs), dtype=bool))
        return prepare_pixels(self._encoder, bare, images=images, progress=self._progress)
