"""Features of one modality each, from any dual encoder and inputs prepared for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from mmpoison.defenses.suspicious_groups._views import Vectors
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_images, embed_texts
from mmpoison.models.inputs import FeatureInputs, PairInputs, PixelInputs, Progress, ProgressFor

BATCH = 128


def caption_features(
    encoder: DualEncoder,
    inputs: PairInputs,
    captions: npt.NDArray[np.object_],
    progress: ProgressFor | None = None,
) -> Vectors:
    """What the text encoder makes of captions, shape `(n, f)`: its trunk's output where it has a head of its own.

    The scan compares captions with captions and images with images. The trunks are the better part for that, and they
    need not have been aligned with each other.
    """
    report = progress("reading captions") if progress else None
    if not encoder.has_heads:
        return embed_texts(encoder, inputs, captions, progress=report)
    rows = inputs.text_rows(captions)
    if isinstance(inputs, FeatureInputs):
        return np.asarray(inputs.text_features[torch.as_tensor(rows)].float().numpy())
    assert isinstance(inputs, PixelInputs)
    tokens = inputs.tokens
    order = np.argsort(inputs.lengths.numpy()[rows], kind="stable")

    def trunk(batch: npt.NDArray[np.int64]) -> torch.Tensor:
        chosen = tokens[torch.as_tensor(rows[order[batch]])]
        return encoder.text_trunk(chosen.long().to(encoder.device))

    features = _in_batches(len(rows), trunk, encoder, report)
    in_order = np.empty_like(features)
    in_order[order] = features
    return in_order


def image_features(
    encoder: DualEncoder,
    inputs: PairInputs,
    images: npt.NDArray[np.int32],
    progress: ProgressFor | None = None,
) -> Vectors:
    """What the image encoder makes of images, shape `(n, f)`: its trunk's output where it has a head of its own."""
    report = progress("looking at images") if progress else None
    if not encoder.has_heads:
        return embed_images(encoder, inputs, images, progress=report)
    rows = inputs.image_rows(images)
    if isinstance(inputs, FeatureInputs):
        return np.asarray(inputs.image_features[torch.as_tensor(rows)].float().numpy())
    assert isinstance(inputs, PixelInputs)
    pixels = inputs.pixels.pixels

    def trunk(batch: npt.NDArray[np.int64]) -> torch.Tensor:
        return encoder.image_trunk(encoder.image_input(pixels[rows[batch]]))

    return _in_batches(len(rows), trunk, encoder, report)


def _in_batches(
    count: int,
    trunk: Callable[[npt.NDArray[np.int64]], torch.Tensor],
    encoder: DualEncoder,
    progress: Progress | None,
) -> Vectors:
    encoder.module.eval()
    parts: list[Vectors] = []
    with torch.no_grad():
        for start in range(0, count, BATCH):
            batch = np.arange(start, min(start + BATCH, count))
            parts.append(trunk(batch).float().cpu().numpy())
            if progress is not None:
                progress(int(batch[-1]) + 1, count)
    return np.concatenate(parts)
