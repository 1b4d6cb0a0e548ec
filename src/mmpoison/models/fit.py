"""Loads weights into a model, or says in one line why they do not match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmpoison.errors import InputError
from mmpoison.models.architectures import (
    architectures_like,
    outline_of_weights,
    without_text_prefix,
)
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.open_clip_build import build_module

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
