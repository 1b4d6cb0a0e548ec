"""Computes features of one modality each, from any dual encoder and inputs prepared for it.

The scan compares captions with captions and images with images. What the trunks give, before the projection into the
shared space, is the better part for that, and the encoders need not have been aligned with each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from mmpoison.defenses.filters.suspicious_groups.shard import Vectors
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, Progress, ProgressFor, Rows

BATCH = 128


def caption_features(
    encoder: DualEncoder,
    inputs: PairInputs,
    captions: npt.NDArray[np.object_],
    progress: ProgressFor | None = None,
) -> Vectors:
    """Compute the outputs of the text trunk for captions, shape `(n, f)`, in their order."""
    rows = inputs.text_rows(captions)
    by_length = np.argsort(inputs.lengths.numpy()[rows], kind="stable")
    sorted_features = _in_batches(
        rows[by_length],
        lambda batch: inputs.text_trunk(encoder, inputs.load_texts(batch)),
        encoder,
        progress("embedding captions") if progress else None,
    )
    features = np.empty_like(sorted_features)
    features[by_length] = sorted_features
    return features


def image_features(
    encoder: DualEncoder,
    inputs: PairInputs,
    images: npt.NDArray[np.int32],
    progress: ProgressFor | None = None,
) -> Vectors:
    """Compute the outputs of the image trunk for images, shape `(n, f)`, in their order."""
    return _in_batches(
        inputs.image_rows(images),
        lambda batch: inputs.image_trunk(encoder, inputs.load_images(batch)),
        encoder,
        progress("embedding images") if progress else None,
    )


def _in_batches(
    rows: Rows,
    trunk: Callable[[Rows], torch.Tensor],
    encoder: DualEncoder,
    progress: Progress | None,
) -> Vectors:
    was_training = encoder.module.training
    encoder.module.eval()
    parts: list[Vectors] = []
    try:
        with torch.no_grad():
            for start in range(0, len(rows), BATCH):
                parts.append(trunk(rows[start : start + BATCH]).float().cpu().numpy())
                if progress is not None:
                    progress(min(start + BATCH, len(rows)), len(rows))
    finally:
        encoder.module.train(was_training)
    return np.concatenate(parts)
