"""Outputs of frozen encoders: computed once, kept by content, shared by runs.

The output of an encoder that does not train is the same in every step. Each is kept in the cache under a digest of the
encoder's weights and one of what it was given, so nothing stale is ever found, and a run that shares most of its
images or captions with another computes the rest alone.
"""

from __future__ import annotations

import hashlib
import uuid
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmpoison.files import atomic_file
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import FeatureInputs, PairInputs, Progress, Rows

Side = Literal["image", "text"]
Keys = npt.NDArray[np.void]

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
    """Outputs of one encoder for rows of the inputs, in 32-bit, shape `(n, d)`, on the CPU.

    Args:
        encoder: The model, in evaluation mode on this side.
        inputs: Holds the rows.
        rows: Rows of the inputs, each once.
        side: Which encoder.
        head: Whether the projection is frozen too; else features before it.
        cache: Folder to keep them in; None keeps none.
        progress: Called with (done, total).
    """
    if cache is None or isinstance(inputs, FeatureInputs):
        return _compute(encoder, inputs, rows, side, head, progress)
    folder = cache / tower_digest(encoder, side, head=head)[:32]
    keys = _row_keys(inputs, rows, side)
    known, values = _read(folder)
    place = {bytes(key): number for number, key in enumerate(known)}
    found = np.fromiter((place.get(bytes(key), -1) for key in keys), np.int64, len(keys))
    missing = np.flatnonzero(found < 0)
    if not len(missing):
        return values[torch.from_numpy(found)]
    new = _compute(encoder, inputs, rows[missing], side, head, progress)
    _write(folder, keys[missing], new)
    result = torch.empty((len(rows), new.shape[1]))
    result[torch.from_numpy(missing)] = new
    old = np.flatnonzero(found >= 0)
    if len(old):
        result[torch.from_numpy(old)] = values[torch.from_numpy(found[old])]
    return result


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
    parts: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH[side]):
            batch = rows[order[start : start + BATCH[side]]]
            if side == "image" and head:
                output = encoder.image_head(inputs.image_trunk(encoder, inputs.load_images(batch)))
            elif side == "image":
                output = inputs.image_before_head(encoder, inputs.load_images(batch))
            else:
                output = inputs.text_trunk(encoder, inputs.load_texts(batch))
                output = encoder.text_head(output) if head else output
            parts.append(output.float().cpu())
            if progress is not None:
                progress(min(start + BATCH[side], len(rows)), len(rows))
    in_order = torch.cat(parts)
    result = torch.empty_like(in_order)
    result[torch.from_numpy(order)] = in_order
    return result


def _row_keys(inputs: PairInputs, rows: Rows, side: Side) -> Keys:
    load = inputs.load_images if side == "image" else inputs.load_texts
    keys: list[bytes] = []
    for start in range(0, len(rows), HASHED_AT_ONCE):
        part = load(rows[start : start + HASHED_AT_ONCE]).numpy()
        shape = repr(part.shape[1:]).encode()
        keys.extend(hashlib.blake2b(row.tobytes() + shape, digest_size=16).digest() for row in part)
    return np.frombuffer(b"".join(keys), dtype="V16")


def _read(folder: Path) -> tuple[Keys, Tensor]:
    keys: list[Keys] = []
    values: list[npt.NDArray[np.float32]] = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                some, outputs = arrays["keys"], arrays["values"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue
        if len(some) == len(outputs):
            keys.append(np.frombuffer(some.tobytes(), dtype="V16"))
            values.append(outputs)
    if not keys:
        return np.empty(0, dtype="V16"), torch.empty((0, 0))
    return np.concatenate(keys), torch.from_numpy(np.concatenate(values))


def _write(folder: Path, keys: Keys, values: Tensor) -> None:
    try:
        with (
            atomic_file(folder / f"{uuid.uuid4().hex}.npz") as temporary,
            temporary.open("wb") as stream,
        ):
            plain = np.frombuffer(keys.tobytes(), dtype=np.uint8).reshape(-1, 16)
            np.savez(stream, keys=plain, values=values.numpy())
    except OSError:
        pass  # the cache is a help and no need: a full disk stops a training when its own files are written
