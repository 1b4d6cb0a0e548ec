"""Checks that a model uses the activation it was trained with: GELU or QuickGELU.

OpenAI trained CLIP with QuickGELU, `x * sigmoid(1.702 x)`. Neither activation has weights, so weights trained with one
load into a model with the other without an error, and every embedding is then slightly wrong. What is known about the
weights decides here: a contradiction is refused. If nothing is known and both variants exist, a warning says so.
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
    """Return whether a model config uses QuickGELU."""
    return bool(model_cfg.get("quick_gelu", False))


def activation_name(model_cfg: Mapping[str, Any]) -> str:
    """Return `QuickGELU` or `GELU`, as checkpoints record it.

    >>> activation_name({"quick_gelu": True}), activation_name({})
    ('QuickGELU', 'GELU')
    """
    return NAMES[uses_quick_gelu(model_cfg)]


def sibling(architecture: str) -> str | None:
    """Return the same architecture with the other activation, or None where there is none."""
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
    """Return what open_clip's table of pre-trained weights says of the activation, or None.

    The table marks QuickGELU only on the tags of architectures that exist with both activations.
    """
    if sibling(architecture) is None:
        return None
    return bool(tag.get("quick_gelu", False))


def published_activation(path: Path) -> bool | None:
    """Return whether a file of published weights was trained with QuickGELU; None if it is unknown.

    A file is recognised by the sha256 that many download addresses contain, whatever its name is now, or by its
    repository in the Hugging Face cache.

    Returns:
        None if the file is not recognised.
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
    if path.suffix not in (".pt", ".pth", ".bin"):  # no other kind has a digest in its address
        return None
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    return next((known for digest, known in digests.items() if found.startswith(digest)), None)


def _digest_in(url: str) -> str:
    """Return the sha256, or its first eight digits, from the address of a file.

    >>> _digest_in("https://host/v0.2-weights/vit_b_32-quickgelu-laion400m_e32-46683a32.pt")
    '46683a32'
    """
    if match := re.search(r"/([0-9a-f]{64})/[^/]+$", url):
        return match[1]
    match = re.search(r"-([0-9a-f]{8})\.pth?$", url)
    return match[1] if match else ""
