"""Computes the outputs of frozen encoders once, and caches them for other runs.

The output of an encoder that does not train is the same in every step. The outputs of a whole data set are cached under
a digest of the encoder's weights and of all its inputs, so nothing stale is ever used. They are not cached one by one:
the last bits of an output depend on the rest of its batch, so a run that found some of them and computed the others
would get different numbers from a run that found none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.models.batches import run_in_batches
from mmpoison.models.compute_environment import compute_environment
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import FeatureInputs, PairInputs, Progress, Rows

Side = Literal["image", "text"]

BATCH = {"image": 64, "text": 256}
HASHED_AT_ONCE = 1024


def frozen_outputs(
    encoder: DualEncoder,
    inputs: PairInputs,
    rows: Rows,
    side: Side,
    *,
    head: bool,
    cache: Path | None,
    progress: Progress | None = None,
) -> Tensor:
    """Compute outputs of one encoder for rows of the inputs, in 32-bit, shape `(n, d)`, on the CPU.

    Args:
        encoder: The model, in evaluation mode on this side.
        inputs: Holds the rows.
        rows: Rows of the inputs, each once.
        side: Which encoder.
        head: Whether the projection is frozen too; else features before it.
        cache: Folder of a content cache; None caches nothing.
        progress: Called with (done, total).
    """
    if cache is None or isinstance(inputs, FeatureInputs):
        return _compute(encoder, inputs, rows, side, head, progress)
    (outputs,) = ContentCache(cache).arrays(
        _key(encoder, inputs, rows, side, head),
        lambda: {"outputs": _compute(encoder, inputs, rows, side, head, progress).numpy()},
        "outputs",
    )
    return torch.from_numpy(outputs)


def _key(encoder: DualEncoder, inputs: PairInputs, rows: Rows, side: Side, head: bool) -> CacheKey:
    """Return all that the outputs depend on; the inputs row by row."""
    digest = hashlib.sha256()
    load = inputs.load_images if side == "image" else inputs.load_texts
    for start in range(0, len(rows), HASHED_AT_ONCE):
        part = load(rows[start : start + HASHED_AT_ONCE]).numpy()
        digest.update(repr(part.shape).encode())
        digest.update(part.tobytes())
    parts = {
        "computed": compute_environment(encoder.device),
        "tower": tower_digest(encoder, side, head=head),
        "inputs": digest.hexdigest(),
    }
    return CacheKey("frozen", parts, f"{side} outputs of {encoder.name}")


def tower_digest(encoder: DualEncoder, side: Side, *, head: bool) -> str:
    """sha256 of the weights of one encoder and of how its inputs are prepared."""
    digest = hashlib.sha256(f"1 {side} {head}".encode())
    if side == "image":
        digest.update(repr(encoder.config.get("preprocess_cfg")).encode())
    # the architecture too: an activation has no weights
    digest.update(repr(encoder.config["model_cfg"]).encode())
    heads = encoder.image_head_parameters() if side == "image" else encoder.text_head_parameters()
    skipped = set() if head else {id(parameter) for parameter in heads}
    for name, tensor in encoder.module.state_dict(keep_vars=True).items():
        if name.startswith("visual.") == (side == "image") and id(tensor) not in skipped:
            if name in ("logit_scale", "logit_bias"):
                continue
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _compute(
    encoder: DualEncoder,
    inputs: PairInputs,
    rows: Rows,
    side: Side,
    head: bool,
    progress: Progress | None,
) -> Tensor:
    order = (
        np.argsort(inputs.lengths.numpy()[rows], kind="stable")
        if side == "text"
        else np.arange(len(rows))
    )

    load = inputs.load_images if side == "image" else inputs.load_texts

    def encode(loaded: Tensor) -> Tensor:
        if side == "image" and head:
            return inputs.encode_images(encoder, loaded)
        if side == "image":
            return inputs.image_before_head(encoder, loaded)
        return inputs.encode_texts(encoder, loaded) if head else inputs.text_trunk(encoder, loaded)

    in_order = torch.from_numpy(
        run_in_batches(encoder, rows[order], BATCH[side], load, encode, progress=progress)
    )
    result = torch.empty_like(in_order)
    result[torch.from_numpy(order)] = in_order
    return result
