"""A checkpoint is a folder: safetensors weights, open_clip's config, the tokenizer's merges, a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from mmpoison.errors import InputError
from mmpoison.files import atomic_folder, read_json, write_json
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.open_clip_build import (
    BPE_FILE,
    build_module,
    build_tokenizer,
    check_self_contained,
)

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
CARD_FILE = "README.md"


def save_checkpoint(
    encoder: DualEncoder,
    out: Path,
    *,
    card: str,
    metadata: Mapping[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a checkpoint folder, whole or not at all.

    Args:
        encoder: What to save.
        out: New folder.
        card: The model card (Markdown): how the model was made and on what data.
        metadata: Facts that programs read back (seed, whether the data were poisoned), kept in the config.
        half: Save weights as 16-bit floats (statistics of normalisation stay 32-bit); half the size.

    Raises:
        InputError: If `out` holds something already.
    """
    config = {
        **encoder.config,
        "mmpoison": {**encoder.config.get("mmpoison", {}), **(metadata or {})},
    }
    config["mmpoison"]["name"] = encoder.name
    with atomic_folder(out) as folder:
        weights = {
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
        safetensors.torch.save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        write_json(folder / CONFIG_FILE, config)
        # safetensors writes private files; a checkpoint is as readable as its config
        shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        merges = getattr(encoder.tokenizer, "bpe_path", None)
        if merges is not None:
            shutil.copyfile(merges, folder / BPE_FILE)
    return out


def load_checkpoint(folder: Path, name: str | None = None) -> DualEncoder:
    """Load a checkpoint folder written by `save_checkpoint`; nothing is ever unpickled.

    Raises:
        InputError: If a file is missing or broken, the weights do not fit the config, or a weight is not finite.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such checkpoint folder")
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"{folder}: has no {CONFIG_FILE}, so it is not a checkpoint of a dual encoder"
        )
    config = read_json(folder / CONFIG_FILE)
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError:
        raise InputError(f"{folder}: has no {WEIGHTS_FILE}") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS_FILE}: broken weights ({error})") from None
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{folder / WEIGHTS_FILE}: weight {key!r} is not finite")
    try:
        check_self_contained(config["model_cfg"])
        module = build_module(config["model_cfg"])
        module.load_state_dict(weights, strict=True)
        tokenizer = build_tokenizer(config["model_cfg"], folder)
        module.eval()
        given = config.get("mmpoison", {}).get("name", folder.name)
        return DualEncoder(module, tokenizer, config, name or str(given))
    except RuntimeError as error:
        first = str(error).strip().splitlines()
        detail = first[1].strip() if len(first) > 1 else first[0]
        raise InputError(f"{folder}: weights do not fit the config: {detail[:200]}") from None
    except InputError as error:
        raise InputError(f"{folder / CONFIG_FILE}: {error}") from None
    except (
        # whatever open_clip and torch make of numbers and names that build no model
        *(LookupError, TypeError, ValueError, AttributeError),
        *(AssertionError, ArithmeticError, OSError),
    ) as error:
        raise InputError(
            f"{folder / CONFIG_FILE}: not a model config ({repr(error)[:200]})"
        ) from None
