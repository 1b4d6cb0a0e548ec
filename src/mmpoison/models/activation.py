"""GELU or QuickGELU: the mistake that loads without a word.

OpenAI trained CLIP with QuickGELU, `x * sigmoid(1.702 x)`. Both activations have no weights, so weights of the one load
into a model with the other, and every embedding is then a little wrong. Here what is known about the weights decides:
a contradiction is refused, and where nothing is known of weights for which both exist, that is said.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpoison.errors import InputError, MmpoisonWarning
from mmpoison.models.architectures import QUICK_GELU_SUFFIX, architectures

NAMES = {True: "QuickGELU", False: "GELU"}


def uses_quick_gelu(model_cfg: Mapping[str, Any]) -> bool:
    """Whether a model config computes with QuickGELU."""
    return bool(model_cfg.get("quick_gelu", False))


def activation_name(model_cfg: Mapping[str, Any]) -> str:
    """`QuickGELU` or `GELU`, as checkpoints record it.

    >>> activation_name({"quick_gelu": True}), activation_name({})
    ('QuickGELU', 'GELU')
    """
    return NAMES[uses_quick_gelu(model_cfg)]


def sibling(architecture: str) -> str | None:
    """The same architecture with the other activation; None where there is none."""
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
    """Refuse an activation that is not the one the weights were trained with.

    Args:
        architecture: What the model is built as.
        quick_gelu: Whether it computes with QuickGELU.
        trained_with: Whether the weights were trained with QuickGELU; None if nothing tells.
        where: The weights, for the message.

    Raises:
        InputError: If the two contradict each other.
    """
    other = sibling(architecture)
    if trained_with is None:
        if other is not None and not quick_gelu:
            warnings.warn(
                f"{where}: nothing tells whether these weights were trained with GELU or QuickGELU; {architecture} "
                f"computes with GELU. OpenAI's weights, and all that was fine-tuned from them, need {other}",
                MmpoisonWarning,
                stacklevel=3,
            )
        return
    if quick_gelu != trained_with:
        advice = f": use {other}" if other else ""
        raise InputError(
            f"{where}: these weights were trained with {NAMES[trained_with]}, and {architecture} computes with "
            f"{NAMES[quick_gelu]}, which would load without a word and be wrong{advice}"
        )


def tag_activation(architecture: str, tag: Mapping[str, Any]) -> bool | None:
    """What open_clip's table of pre-trained weights says; None where it speaks of no activation.

    The table marks QuickGELU only on the tags of architectures that exist with both activations.
    """
    if sibling(architecture) is None:
        return None
    return bool(tag.get("quick_gelu", False))


def published_activation(path: Path) -> bool | None:
    """Whether a file is published weights that open_clip knows, and whether those were trained with QuickGELU.

    A file is known by the sha256 that stands in the address of many, whatever it is called now, or by the repository
    it lies under in the Hugging Face cache.

    Returns:
        None if the file is not known.
    """
    from open_clip import pretrained

    digests: dict[str, bool] = {}
    repositories: dict[str, bool] = {}
    for tags in pretrained._PRETRAINED.values():
        for tag in tags.values():
            quick_gelu = bool(tag.get("quick_gelu", False))
            if digest := _digest_in(tag.get("url", "")):
                digests[digest] = digests.get(digest, False) or quick_gelu
            if repository := tag.get("hf_hub", "").strip("/"):
                folder = "models--" + repository.replace("/", "--")
                repositories[folder] = repositories.get(folder, False) or quick_gelu
    for part in path.absolute().parts:
        if part in repositories:
            return repositories[part]
    if path.suffix not in (".pt", ".pth", ".bin"):  # none of the others has a digest in its address
        return None
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    return next((known for digest, known in digests.items() if found.startswith(digest)), None)


def _digest_in(url: str) -> str:
    """The sha256, or its first eight digits, in the address of a file.

    >>> _digest_in("https://host/v0.2-weights/vit_b_32-quickgelu-laion400m_e32-46683a32.pt")
    '46683a32'
    """
    if match := re.search(r"/([0-9a-f]{64})/[^/]+$", url):
        return match[1]
    match = re.search(r"-([0-9a-f]{8})\.pth?$", url)
    return match[1] if match else ""
