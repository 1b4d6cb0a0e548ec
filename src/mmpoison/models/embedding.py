"""Embeds images and captions for measurements: each image once, and each distinct caption once, sorted by length.

Captions of equal length share a batch, which is cut at its longest caption without padding others. For CLIP's causal
text encoder this is exact. Only one batch and the result are in memory.
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
    """Embed images once each; return unit embeddings, shape `(n, d)`, in the order of `indices`.

    Args:
        encoder: The model.
        inputs: Preprocessed inputs of the data set.
        indices: Images of the table, repeats allowed, shape `(n,)`.
        batch_size: Images at a time.
        precision: Numeric precision of the computation.
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
    """Embed preprocessed captions, equal ones only once; return unit embeddings, shape `(n, d)`.

    Args:
        encoder: The model.
        inputs: Preprocessed inputs of the data set.
        captions: `n` preprocessed captions.
        batch_size: Captions at a time.
        precision: Numeric precision of the computation.
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
    """Embed any captions, equal ones only once; return unit embeddings, shape `(n, d)`.

    Args:
        encoder: The model.
        captions: `n` captions, truncated to the model's context.
        batch_size: Captions at a time.
        precision: Numeric precision of the computation.
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
    """Embed images outside a preprocessed data set; return unit embeddings, shape `(n, d)`.

    Args:
        encoder: The model.
        pixels: RGB from `encoder.preparation`, shape `(n, size, size, 3)`.
        batch_size: Images at a time.
    """
    return run_in_batches(
        encoder,
        np.arange(len(pixels)),
        batch_size,
        lambda rows: torch.as_tensor(pixels[rows]),
        lambda loaded: encoder.encode_image(encoder.image_input(loaded)),
    )


# -- Embeds images and captions for attacks: class centres for attack I, and attackers with a surrogate.


AT_ONCE = 512
"""Maximum number of images whose pixels are in memory at once."""

DIFFERENTIATED = 16
"""Images differentiated at once: few, so that memory blocks are small enough for reuse."""


class Embedder:
    """Adapts a dual encoder to the interface for attacks (`mmpoison.attacks.catalogue.PixelSurrogate`).

    Args:
        encoder: The model.
        progress: Returns a progress callback for a named step.
    """

    def __init__(self, encoder: DualEncoder, progress: ProgressFor | None = None) -> None:
        self._encoder, self._progress = encoder, progress

    def __call__(self, pairs: PairDataset, images: IntArray) -> Embeddings:
        """Embed images, given their indices `(n,)`; returns unit embeddings `(n, d)`."""
        parts: list[Embeddings] = []
        for start in range(0, len(images), AT_ONCE):
            part = images[start : start + AT_ONCE]
            inputs = self._inputs(pairs, part)
            parts.append(embed_images(self._encoder, inputs, part))
        return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)

    def captions(self, captions: Sequence[str]) -> Embeddings:
        """Embed captions; returns unit embeddings `(n, d)`."""
        progress = self._progress("embedding captions") if self._progress else None
        return embed_captions(self._encoder, captions, progress=progress)

    @property
    def name(self) -> str:
        """Name of the encoder."""
        return self._encoder.name

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Weights, architecture and preprocessing of the encoder, and the compute environment, as JSON values."""
        computed = compute_environment(self._encoder.device)
        return {**encoder_identity(self._encoder), "computed": computed}

    @property
    def preparation(self) -> Preparation:
        """How the encoder resizes and crops images."""
        return self._encoder.preparation

    @property
    def logit_scale(self) -> float:
        """The factor by which the encoder's loss multiplies cosines."""
        return float(self._encoder.logit_scale.detach().exp())

    def pixels(self, pairs: PairDataset, images: IntArray) -> Pixels:
        """Preprocess images, given their indices `(n,)`; returns RGB `(n, size, size, 3)`."""
        return self._inputs(pairs, images).pixels.take(images)

    def differentiate(
        self, pixels: npt.NDArray[np.float32]
    ) -> tuple[Embeddings, Callable[[Embeddings], npt.NDArray[np.float32]]]:
        """Embed pixels, and return a function that maps gradients back to them. No weight changes.

        Args:
            pixels: RGB in [0, 255], shape `(n, size, size, 3)`.

        Returns:
            Unit embeddings `(n, d)`, and a function that maps a loss's gradient with respect to them to its gradient
            with respect to `pixels`. The function can be called once.
        """
        encoder = self._encoder
        leaves, parts = [], []
        with evaluation_mode(encoder), torch.enable_grad():
            for start in range(0, len(pixels), DIFFERENTIATED):
                part = pixels[start : start + DIFFERENTIATED]
                leaf = torch.tensor(part, dtype=torch.float32, device=encoder.device)
                leaves.append(leaf.requires_grad_())
                # copy, because the input is normalised in place
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
