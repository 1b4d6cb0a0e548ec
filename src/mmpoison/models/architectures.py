"""The architectures of open_clip, and which of them fits a file of weights."""

from __future__ import annotations

import copy
import difflib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmpoison.base.untrusted import file_digest
from mmpoison.errors import InputError, MmpoisonWarning

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
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(
            f"open_clip has no architecture {name!r}: {hint}"
            "`mmpoison models list --architectures` shows all"
        )
    return copy.deepcopy(known[name])


@dataclass(frozen=True)
class Outline:
    """The parts of a CLIP architecture that the shapes of its weights show: not its activation, not its heads.

    Attributes:
        embed_dim: Width of the shared space.
        image: Kind, width, blocks, patch size and image size of the image encoder, as far as the shapes show them.
        text: Width, blocks, context and vocabulary of the text encoder.
    """

    embed_dim: int
    image: tuple[Any, ...]
    text: tuple[int, int, int, int]


def outline_of_config(model_cfg: Mapping[str, Any]) -> Outline | None:
    """Return the outline of a config; None where a tower comes from timm or Hugging Face."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if vision.get("timm_model_name") or text.get("hf_model_name") or "multimodal_cfg" in model_cfg:
        return None
    layers, size = vision.get("layers", 12), vision.get("image_size", 224)
    size = size if isinstance(size, int) else tuple(size)
    if isinstance(layers, int):
        patch = vision.get("patch_size", 16)
        image: tuple[Any, ...] = ("vit", vision.get("width", 768), layers, patch, size)
    else:
        image = ("resnet", vision.get("width", 64), tuple(layers), 32, size)
    return Outline(
        model_cfg["embed_dim"],
        image,
        (
            text.get("width", 512),
            text.get("layers", 12),
            text.get("context_length", 77),
            text.get("vocab_size", 49408),
        ),
    )


def outline_of_weights(tensors: Mapping[str, Tensor]) -> Outline | None:
    """Return the outline of CLIP weights; None for other weights."""
    text = {name.removeprefix("text."): tensor for name, tensor in tensors.items()}
    try:
        embed_dim = text["text_projection"].shape[1]
        context, width = text["positional_embedding"].shape
        vocabulary = text["token_embedding.weight"].shape[0]
        if "visual.conv1.weight" not in tensors:
            return None
        first = tensors["visual.conv1.weight"].shape
        if "visual.class_embedding" in tensors:
            grid = round((tensors["visual.positional_embedding"].shape[0] - 1) ** 0.5)
            blocks = _count(tensors, "visual.transformer.resblocks.", 3)
            image: tuple[Any, ...] = ("vit", first[0], blocks, first[-1], first[-1] * grid)
        else:
            grid = round((tensors["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
            stages = tuple(_count(tensors, f"visual.layer{stage}.", 2) for stage in (1, 2, 3, 4))
            stage_width = tensors["visual.layer1.0.conv1.weight"].shape[0]
            image = ("resnet", stage_width, stages, 32, grid * 32)
    except (KeyError, IndexError, ValueError):
        return None
    return Outline(
        embed_dim, image, (width, _count(text, "transformer.resblocks.", 2), context, vocabulary)
    )


def architectures_like(outline: Outline | None) -> list[str]:
    """List the architectures with a given outline; GELU and QuickGELU variants count as the same."""
    if outline is None:
        return []
    return [name for name, cfg in architectures().items() if outline_of_config(cfg) == outline]


def openai_config(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the model config of weights in OpenAI's form (heads 64 wide, QuickGELU); None for other weights."""
    outline = outline_of_weights(tensors)
    if outline is None:
        return None
    kind, width, layers, patch, size = outline.image
    text_width, text_layers, context, vocabulary = outline.text
    return {
        "embed_dim": outline.embed_dim,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": size,
            "layers": list(layers) if kind == "resnet" else layers,
            "width": width,
            "patch_size": patch if kind == "vit" else None,
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": vocabulary,
            "width": text_width,
            "heads": text_width // 64,
            "layers": text_layers,
        },
    }


def without_text_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights as open_clip's plain `CLIP` names them, without the prefix `text.`."""
    return {
        name.removeprefix("text.") if name.removeprefix("text.").startswith(_TEXT_KEYS) else name: t
        for name, t in tensors.items()
    }


def _count(tensors: Mapping[str, Tensor], prefix: str, position: int) -> int:
    return len({name.split(".")[position] for name in tensors if name.startswith(prefix)})


# -- Checks that a model uses the activation it was trained with: GELU or QuickGELU.


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
    found = file_digest(path)
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
