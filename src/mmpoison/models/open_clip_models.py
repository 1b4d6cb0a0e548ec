"""Loads models by open_clip's names: an architecture with published, local or random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError
from mmpoison.models.architectures import (
    QUICK_GELU_SUFFIX,
    activation_name,
    architecture_config,
    check_activation,
    published_activation,
    sibling,
    tag_activation,
    uses_quick_gelu,
)
from mmpoison.models.checkpoint import CONFIG_FILE, Checkpoint, open_clip_checkpoint
from mmpoison.models.dual_encoder import CLIP_PREPROCESSING, DualEncoder
from mmpoison.models.hub import hub_if_reached, not_fetched
from mmpoison.models.hugging_face import is_transformers_naming
from mmpoison.models.open_clip_build import build_module, build_tokenizer
from mmpoison.models.weights_file import Weights, read_weights


def load_tag(architecture: str, tag: str) -> DualEncoder:
    """Load an architecture with the pre-trained weights of an open_clip tag, downloaded once.

    Raises:
        InputError: If there is no such architecture or tag, the weights need another activation, or they are not
            cached and cannot be downloaded.
    """
    from open_clip import pretrained

    cfg = architecture_config(architecture)
    known = pretrained.get_pretrained_cfg(architecture, tag)
    name = f"{architecture}:{tag}"
    if not known:
        other = sibling(architecture)
        if other and pretrained.get_pretrained_cfg(other, tag):
            raise InputError(f"model {name!r} does not exist: use {other}:{tag}")
        tags = pretrained.list_pretrained_tags_by_model(architecture)
        raise InputError(
            f"architecture {architecture} has no pre-trained weights {tag!r}: it has "
            f"{', '.join([*tags, 'random'])}; for your own weights write {architecture}@FILE"
        )
    check_activation(architecture, uses_quick_gelu(cfg), tag_activation(architecture, known), name)
    try:
        with hub_if_reached():
            file = Path(pretrained.download_pretrained(known))
    except (OSError, RuntimeError, ValueError) as error:
        reason = not_fetched(name, error)
        raise InputError(
            f"{reason}; if you have a file of the weights, write {architecture}@FILE"
        ) from None
    config = _config(cfg, name, known, architecture)
    tensors = read_weights(file).tensors
    return Checkpoint(config, tensors, file, file, architecture, fetch=True).build(name)


def load_random(architecture: str, seed: int) -> DualEncoder:
    """Build an architecture with random weights of a seed, for tests and speed measurements."""
    cfg = architecture_config(architecture)
    name = f"{architecture}:random" + (f"-{seed}" if seed else "")
    module = build_module(cfg, fetch=True, seed=seed)
    config = _config(cfg, name, _preprocessing_of(architecture), architecture)
    return DualEncoder(module, build_tokenizer(cfg, fetch=True), config, name)


def load_file(file: Path, architecture: str | None = None) -> DualEncoder:
    """Load a model from a file of weights.

    Args:
        file: The weights.
        architecture: The architecture; by default that of the config next to the file.

    Raises:
        InputError: If neither the call nor the file or its folder says the architecture, or the weights are of another
            one, were trained with another activation, or are broken.
    """
    # refuse an unknown name before reading a large file
    cfg = architecture_config(architecture) if architecture else None
    weights = read_weights(file)
    tensors = weights.tensors
    if cfg is None and (file.parent / CONFIG_FILE).is_file():
        return open_clip_checkpoint(file.parent, file, tensors).build(file.stem)
    if is_transformers_naming(tensors):
        raise InputError(
            f"{file}: weights of a transformers CLIPModel: give the folder with its config.json, {file.parent}"
        )
    if architecture is None or cfg is None:
        raise InputError(
            f"{file}: the file does not say its architecture: name it, ARCHITECTURE@{file} "
            "(`mmpoison models list --architectures`); OpenAI's weights, and everything fine-tuned from them, need one "
            f"that ends in {QUICK_GELU_SUFFIX}"
        )
    check_activation(
        architecture, uses_quick_gelu(cfg), _trained_with(weights, file, cfg), str(file)
    )
    name = f"{architecture}@{file.name}"
    config = _config(cfg, name, _preprocessing_of(architecture), architecture)
    return Checkpoint(config, tensors, file, file, architecture).build(name)


def _trained_with(weights: Weights, file: Path, cfg: Mapping[str, Any]) -> bool | None:
    """Return whether weights were trained with QuickGELU; None if the file and its folder do not say.

    The config in the folder counts where it is of the architecture `cfg`: it may be that of another model.
    """
    if weights.openai:
        return True
    neighbour = file.parent / CONFIG_FILE
    config = read_json(neighbour) if neighbour.is_file() else None
    own = config.get("model_cfg") if isinstance(config, Mapping) else None
    if isinstance(own, Mapping) and {**own, "quick_gelu": None} == {**cfg, "quick_gelu": None}:
        return uses_quick_gelu(own)
    return published_activation(file)


def _config(
    cfg: dict[str, Any], name: str, preprocess: Mapping[str, Any], architecture: str
) -> dict[str, Any]:
    prepared = {
        "size": cfg["vision_cfg"].get("image_size", 224),
        "mode": "RGB",
        **CLIP_PREPROCESSING,
    }
    prepared |= {key: value for key, value in preprocess.items() if key in prepared}
    prepared |= {key: list(prepared[key]) for key in ("mean", "std")}
    facts = {"architecture": architecture, "activation": activation_name(cfg), "source": name}
    return {
        "model_cfg": cfg,
        "preprocess_cfg": prepared,
        "mmpoison": {key: value for key, value in facts.items() if value is not None},
    }


def _preprocessing_of(architecture: str) -> Mapping[str, Any]:
    """Return the preprocessing of an architecture's published weights if all agree, otherwise nothing."""
    from open_clip import pretrained

    keys = ("mean", "std", "interpolation", "resize_mode")
    found = [
        {key: tag[key] for key in keys if tag.get(key) is not None}
        for tag in pretrained._PRETRAINED.get(architecture, {}).values()
    ]
    return found[0] if found and all(other == found[0] for other in found) else {}
