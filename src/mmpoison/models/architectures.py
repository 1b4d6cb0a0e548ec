"""The registry of named models; open_clip's architectures, and how to identify the one of a weights file."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmpoison.base.registry import Registry, unknown_name
from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class ModelSource:
    """Description of a named model, and how to load it.

    Attributes:
        name: Registered name.
        summary: One line: what it is and what it was trained on.
        load: Loads the model, in evaluation mode.
        aligned: Whether its two encoders already share a space; if not, it must be aligned before use.
        megabytes: Size of its weights.
        licence: Licence of the weights.
        origin: Where the weights come from.
        is_here: Checks whether it loads without a network.
    """

    name: str
    summary: str
    load: Callable[[], DualEncoder]
    aligned: bool = True
    megabytes: float | None = None
    licence: str = ""
    origin: str = ""
    is_here: Callable[[], bool] = lambda: True


MODELS: Registry[ModelSource] = Registry(
    "model",
    "mmpoison.models",
    group="mmpoison.models",
    needs=("name", "summary", "load", "aligned", "is_here"),
)


QUICK_GELU_SUFFIX = "-quickgelu"
_TEXT_KEYS = (
    "positional_embedding",
    "text_projection",
    "token_embedding.",
    "transformer.",
    "ln_final.",
)


def architectures() -> dict[str, dict[str, Any]]:
    """Return open_clip's model configs by name, including those added to open_clip at run time."""
    from open_clip import factory

    return dict(factory._MODEL_CONFIGS)


def architecture_config(name: str) -> dict[str, Any]:
    """Return a copy of the model config of an architecture.

    Raises:
        InputError: If open_clip has none of that name.
    """
    known = architectures()
    if name not in known:
        raise InputError(
            unknown_name("architecture", name, known, "mmpoison models list --architectures")
        )
    return copy.deepcopy(known[name])


def without_text_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights as open_clip's plain `CLIP` names them, without the prefix `text.`."""
    return {
        name.removeprefix("text.") if name.removeprefix("text.").startswith(_TEXT_KEYS) else name: t
        for name, t in tensors.items()
    }


# -- Checks that a model uses the activation it was trained with: GELU or QuickGELU.


NAMES = {True: "QuickGELU", False: "GELU"}


def uses_quick_gelu(model_cfg: Mapping[str, Any]) -> bool:
    """Check whether a model config uses QuickGELU."""
    return bool(model_cfg.get("quick_gelu", False))


def activation_name(model_cfg: Mapping[str, Any]) -> str:
    """Return `QuickGELU` or `GELU`, as checkpoints record it.

    >>> activation_name({"quick_gelu": True}), activation_name({})
    ('QuickGELU', 'GELU')
    """
    return NAMES[uses_quick_gelu(model_cfg)]


def sibling(architecture: str) -> str | None:
    """Return the same architecture with the other activation, or None if there is none."""
    other = (
        architecture.removesuffix(QUICK_GELU_SUFFIX)
        if architecture.endswith(QUICK_GELU_SUFFIX)
        else architecture + QUICK_GELU_SUFFIX
    )
    known = architectures()
    if other not in known:
        return None
    differ = uses_quick_gelu(known[other]) != uses_quick_gelu(known.get(architecture, {}))
    return other if differ else None


def check_activation(
    architecture: str, quick_gelu: bool, trained_with: bool | None, where: str
) -> None:
    """Refuse an activation that differs from the one used in training.

    Args:
        architecture: The architecture to build.
        quick_gelu: Whether it computes with QuickGELU.
        trained_with: Whether the weights were trained with QuickGELU; None if it is unknown.
        where: The weights, for the message.

    Raises:
        InputError: If the two contradict each other.
    """
    other = sibling(architecture)
    if trained_with is None:
        if other is not None and not quick_gelu:
            warnings.warn(
                f"{where}: it is unknown whether these weights were trained with GELU or QuickGELU; {architecture} "
                f"uses GELU. OpenAI's weights, and everything fine-tuned from them, need {other}",
                MmpoisonWarning,
                stacklevel=3,
            )
        return
    if quick_gelu != trained_with:
        advice = f": use {other}" if other else ""
        raise InputError(
            f"{where}: these weights were trained with {NAMES[trained_with]}, but {architecture} uses "
            f"{NAMES[quick_gelu]}: they would load without an error and give wrong embeddings{advice}"
        )


def tag_activation(architecture: str, tag: Mapping[str, Any]) -> bool | None:
    """Return the activation in open_clip's table of pre-trained weights, or None.

    The table marks QuickGELU only on the tags of architectures that exist with both activations.
    """
    return None if sibling(architecture) is None else uses_quick_gelu(tag)


def published_activation(path: Path) -> bool | None:
    """Check whether published weights were trained with QuickGELU; None if unknown.

    Files are recognised by their repository in the Hugging Face cache.
    """
    from open_clip import pretrained

    repositories = {part for part in path.absolute().parts if part.startswith("models--")}
    found = [
        uses_quick_gelu(tag)
        for known in pretrained._PRETRAINED.values()
        for tag in known.values()
        if "models--" + (tag.get("hf_hub") or "").strip("/").replace("/", "--") in repositories
    ]
    return any(found) if found else None
