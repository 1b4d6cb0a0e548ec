"""Saves and loads checkpoint folders: safetensors weights, open_clip's config, merges, a model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from mmpoison.base.files import atomic_folder, write_json
from mmpoison.base.untrusted import plain_file, read_json
from mmpoison.errors import InputError
from mmpoison.models.architectures import (
    activation_name,
    architectures_like,
    outline_of_weights,
    without_text_prefix,
)
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.open_clip_build import (
    build_module,
    build_tokenizer,
    save_text_files,
)
from mmpoison.models.text_files import refuse_code
from mmpoison.models.weights_file import read_weights
from mmpoison.records.run_files import CheckpointRecord

# -- Loads weights into a model, or says in one line why they do not match.


_SHOWN = 3


def build_with_weights(
    model_cfg: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    where: str,
    what: str = "the config",
    *,
    folder: Path | None = None,
    fetch: bool = False,
) -> nn.Module:
    """Build a model from a config and load its weights, all of them and nothing else.

    The weights are compared with the config before its memory is allocated: a config of a few lines can describe a
    model of terabytes, while the weights of a file take no more memory than the file.

    Args:
        model_cfg: open_clip's model config, not checked yet.
        tensors: open_clip's names to weights; the text encoder's names may have the prefix `text.` or not.
        where: The file of the weights, for messages.
        what: Name of the config, for messages.
        folder: As for `build_module`.
        fetch: As for `build_module`.

    Raises:
        InputError: If the config makes no model, or a weight is missing, unknown or of another shape.
    """
    outline = build_module(model_cfg, folder=folder, fetch=fetch, weightless=True)
    given = _fitting(outline, tensors, where, what)
    module = build_module(model_cfg, folder=folder, fetch=fetch)
    with torch.no_grad():
        module.load_state_dict(given, strict=True)
    return module


def with_place(error: InputError, where: Path, *named: Path) -> InputError:
    """Prefix an error of building a model with its config file, unless it begins with a file already.

    Args:
        error: The error that building raised.
        where: The file of the config.
        named: Files and folders that errors begin with.
    """
    begins = str(error).startswith(tuple(map(str, named)))
    return InputError(str(error) if begins else f"{where}: {error}")


def check_usable(encoder: DualEncoder) -> DualEncoder:
    """Refuse a model that loads but cannot embed a caption.

    Examples are a tokenizer of another model and a scale that is not a number.

    Returns:
        The encoder.

    Raises:
        InputError: If a caption that fills the context cannot be embedded, or the temperature is not a finite number.
    """
    if not torch.isfinite(encoder.logit_scale.detach().exp()).all():
        raise InputError("logit_scale is out of range, the temperature would not be a number")
    tokens = encoder.tokens(["a " * 500])
    try:
        with torch.no_grad():
            encoder.encode_text(tokens)
    except (RuntimeError, LookupError, ValueError, TypeError, AssertionError) as error:
        raise InputError(f"its text encoder fails on a caption ({repr(error)[:200]})") from None
    return encoder


def _fitting(
    module: nn.Module, tensors: Mapping[str, Tensor], where: str, what: str
) -> dict[str, Tensor]:
    """Rename weights as a module names them, and check their shapes.

    open_clip would silently resize position embeddings of another image size or context; here they are refused.

    Raises:
        InputError: If a weight is missing, unknown or of another shape.
    """
    wanted = module.state_dict()
    given = _as_the_module_has_them(module, wanted, tensors)
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {_shape(given[name])} for {_shape(wanted[name])}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    if missing or unknown or shapes:
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for kind, names in (
                ("missing", missing),
                ("unknown", unknown),
                ("of another shape", shapes),
            )
            if names
        ]
        raise InputError(
            f"{where}: weights do not fit {what}: {'; '.join(parts)}{likely(tensors, what)}"
        )
    return given


def likely(tensors: Mapping[str, Tensor], not_this: str = "") -> str:
    """Suggest the architectures whose shapes the weights have; empty if there are none."""
    names = [
        name for name in architectures_like(outline_of_weights(tensors)) if name not in not_this
    ]
    return f"; they have the shapes of {' or '.join(names[:4])}" if names else ""


def _as_the_module_has_them(
    module: nn.Module, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    given: dict[str, Tensor] = convert_state_dict(module, dict(tensors))
    if "text.positional_embedding" in wanted:
        given = convert_to_custom_text_state_dict(given)
    elif "positional_embedding" in wanted:
        given = without_text_prefix(given)
    for name in (
        "logit_scale",
        "logit_bias",
    ):  # saved as a number by some and as a row of one by others
        if name in given and name in wanted and given[name].numel() == wanted[name].numel() == 1:
            given[name] = given[name].reshape(wanted[name].shape)
    # a constant that old releases of transformers saved with the weights
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids not in wanted:
        given.pop(position_ids, None)
    return given


def _shape(tensor: Tensor) -> str:
    sizes: Sequence[int] = tensor.shape
    return "x".join(map(str, sizes)) or "a number"


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
