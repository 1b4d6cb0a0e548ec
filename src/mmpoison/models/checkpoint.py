"""Saves and loads checkpoint folders: safetensors weights, open_clip's config, merges, a model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from mmpoison.base.files import atomic_folder, write_json
from mmpoison.base.untrusted import plain_file, read_json
from mmpoison.errors import InputError
from mmpoison.models.activation import activation_name
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.fit import build_with_weights, check_usable, with_place
from mmpoison.models.open_clip_build import build_tokenizer, save_text_files
from mmpoison.models.text_files import refuse_code
from mmpoison.models.weights_file import read_weights
from mmpoison.records.run_files import CheckpointRecord

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
CARD_FILE = "README.md"

WEIGHTS_FILES = (
    WEIGHTS_FILE,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
"""Names that open_clip itself gives weights, best first."""


def save_checkpoint(
    encoder: DualEncoder,
    out: Path,
    *,
    card: str,
    metadata: Mapping[str, object] | None = None,
    half: bool = False,
    also: Callable[[Path], object] | None = None,
) -> Path:
    """Write a checkpoint folder, whole or not at all.

    Args:
        encoder: What to save.
        out: New folder.
        card: The model card (Markdown): how the model was made and on what data.
        metadata: Facts that programs read back, fields of `CheckpointRecord`; they are stored in the config.
        half: Save weights as 16-bit floats (statistics of normalisation stay 32-bit); half the size.
        also: Writes more files into the folder before it gets its name.

    Raises:
        InputError: If `out` is not empty.
    """
    record = CheckpointRecord.of(
        {
            **encoder.record.to_json(),
            **(metadata or {}),
            "name": encoder.name,
            "activation": activation_name(encoder.config["model_cfg"]),
        }
    )
    config = {**encoder.config, "mmpoison": record.to_json()}
    with atomic_folder(out) as folder:
        safetensors.torch.save_file(
            weights_to_save(encoder, half=half), folder / WEIGHTS_FILE, metadata={"format": "pt"}
        )
        write_json(folder / CONFIG_FILE, config)
        # safetensors writes private files; a checkpoint is as readable as its config
        shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        save_text_files(encoder.module, encoder.tokenizer, folder)
        if also is not None:
            also(folder)
    return out


def weights_to_save(encoder: DualEncoder, *, half: bool = False) -> dict[str, Tensor]:
    """Copy all weights and statistics to the CPU; statistics of normalisation stay 32-bit."""
    return {
        name: (
            tensor.half()
            if half and tensor.is_floating_point() and "running_" not in name
            else tensor
        )
        .detach()
        .cpu()
        .contiguous()
        for name, tensor in encoder.module.state_dict().items()
    }


def load_checkpoint(folder: Path, name: str | None = None, *, fetch: bool = False) -> DualEncoder:
    """Load a checkpoint folder written by `save_checkpoint`, or an open_clip folder; nothing is ever unpickled.

    Args:
        folder: Holds `open_clip_config.json` and weights.
        name: Its name in results; by default the name it was saved under.
        fetch: Allow the download of a Hugging Face text tower's config and tokenizer, if the folder lacks them.

    Raises:
        InputError: If a file is missing or broken, the weights do not match the config, or a weight is not finite.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint folder")
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder}: has no {CONFIG_FILE}, so it is not a checkpoint of a dual encoder"
        )
    config = read_json(plain_file(folder, CONFIG_FILE))
    weights = next((folder / file for file in WEIGHTS_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise InputError(f"{folder}: has no {WEIGHTS_FILE}")
    tensors = read_weights(weights).tensors
    return encoder_from_config(
        config, tensors, folder / CONFIG_FILE, name=name, weights=weights, fetch=fetch
    )


def encoder_from_config(
    config: Any,
    tensors: Mapping[str, Tensor],
    where: Path,
    *,
    weights: Path,
    name: str | None = None,
    fetch: bool = False,
) -> DualEncoder:
    """Build a model from a config and weights.

    Args:
        config: `{"model_cfg": ..., "preprocess_cfg": ..., "mmpoison": ...}`, not checked yet.
        tensors: open_clip's names to weights.
        where: The file of the config, for messages; text files of the model are read from the same folder.
        weights: The file of the weights, for messages.
        name: Its name; by default the one in the config, or the folder's name.
        fetch: As for `load_checkpoint`.

    Raises:
        InputError: If the config makes no model, contradicts itself, or the weights do not match.
    """
    folder = where.parent
    try:
        record = CheckpointRecord.of(config.get("mmpoison", {}), "mmpoison")
        activation = activation_name(config["model_cfg"])
        if record.activation not in (None, activation):
            raise InputError(
                f"the model was saved with {str(record.activation)[:40]} and the config now says {activation}"
            )
        if where.name == CONFIG_FILE:
            refuse_code(folder)
        module = build_with_weights(
            config["model_cfg"], tensors, str(weights), folder=folder, fetch=fetch
        )
        tokenizer = build_tokenizer(config["model_cfg"], folder, fetch=fetch)
        known_as = name or (record.name or folder.name)[:200]
        encoder = check_usable(DualEncoder(module, tokenizer, config, known_as))
    except InputError as error:
        raise with_place(error, where, folder, weights) from None
    except (
        # what open_clip and torch raise for numbers and names that build no model
        *(LookupError, TypeError, ValueError, AttributeError, RuntimeError),
        *(AssertionError, ArithmeticError, OSError),
    ) as error:
        raise InputError(f"{where}: not a model config ({repr(error)[:200]})") from None
    return encoder
