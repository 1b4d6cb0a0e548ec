"""Loads models by open_clip's names: an architecture with published, local or random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpoison.errors import InputError
from mmpoison.models.architectures import (
    activation_name,
    architecture_config,
    architectures_like,
    check_activation,
    openai_config,
    outline_of_config,
    outline_of_weights,
    published_activation,
    sibling,
    tag_activation,
    uses_quick_gelu,
)
from mmpoison.models.checkpoint import (
    CONFIG_FILE,
    build_with_weights,
    check_usable,
    encoder_from_config,
)
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
    weights = read_weights(file)
    return _build(architecture, cfg, weights, str(file), name=name, preprocess=known, fetch=True)


def load_random(architecture: str, seed: int) -> DualEncoder:
    """Build an architecture with random weights of a seed, for tests and speed measurements."""
    cfg = architecture_config(architecture)
    name = f"{architecture}:random" + (f"-{seed}" if seed else "")
    module = build_module(cfg, fetch=True, seed=seed)
    config = _config(architecture, cfg, name, _preprocessing_of(architecture))
    return DualEncoder(module, build_tokenizer(cfg, fetch=True), config, name)


def load_file_as(architecture: str, file: Path) -> DualEncoder:
    """Load weights from a file into a named architecture.

    Raises:
        InputError: If the weights are of another architecture, were trained with another activation, or are broken.
    """
    architecture_config(architecture)  # refuses an unknown name before a large file is read
    return _load_weights_as(architecture, read_weights(file), file)


def _load_weights_as(architecture: str, weights: Weights, file: Path) -> DualEncoder:
    cfg = architecture_config(architecture)
    _refuse_transformers(weights, file)
    check_activation(architecture, uses_quick_gelu(cfg), trained_with(weights, file), str(file))
    name = f"{architecture}@{file.name}"
    preprocess = _preprocessing_of(architecture)
    return _build(architecture, cfg, weights, str(file), name=name, preprocess=preprocess)


def load_bare_file(file: Path) -> DualEncoder:
    """Load a model from a file alone, if the file or its folder identifies the architecture.

    Raises:
        InputError: If the architecture or the activation cannot be identified; the message says how to name them.
    """
    from mmpoison.base.untrusted import read_json

    weights = read_weights(file)
    neighbour = file.parent / CONFIG_FILE
    if weights.config is not None:
        return encoder_from_config(weights.config, weights.tensors, file, weights=file)
    if neighbour.is_file():
        return encoder_from_config(
            read_json(neighbour), weights.tensors, neighbour, weights=file, name=file.stem
        )
    _refuse_transformers(weights, file)
    outline = outline_of_weights(weights.tensors)
    names = architectures_like(outline)
    quick_gelu = trained_with(weights, file)
    if quick_gelu is not None:
        names = [n for n in names if uses_quick_gelu(architecture_config(n)) == quick_gelu]
    if len(names) == 1:
        return _load_weights_as(names[0], weights, file)
    if weights.openai and (cfg := openai_config(weights.tensors)) is not None:
        return _build(None, cfg, weights, str(file), name=file.stem, preprocess={})
    if not names:
        raise InputError(
            f"{file}: cannot identify the architecture of these weights: name it, ARCHITECTURE@{file}"
        )
    raise InputError(
        f"{file}: the weights fit {' and '.join(names[:6])}, and the file does not say which: name it, e.g. "
        f"{names[-1]}@{file}"
        + (
            "; OpenAI's weights, and everything fine-tuned from them, need -quickgelu"
            if any(sibling(name) in names for name in names)
            else ""
        )
    )


def trained_with(weights: Weights, file: Path) -> bool | None:
    """Return whether weights were trained with QuickGELU; None if the file and its folder do not say."""
    from mmpoison.base.untrusted import read_json

    if weights.openai:
        return True
    configs = [weights.config]
    if (neighbour := file.parent / CONFIG_FILE).is_file():
        configs.append(read_json(neighbour))
    for config in configs:
        if isinstance(config, Mapping) and isinstance(config.get("model_cfg"), Mapping):
            cfg = config["model_cfg"]
            # the config in the folder may be that of another model
            if config is weights.config or _same_shapes(cfg, weights):
                return uses_quick_gelu(cfg)
    return published_activation(file)


def _same_shapes(cfg: Mapping[str, Any], weights: Weights) -> bool:
    try:
        outline = outline_of_config(cfg)
    except (KeyError, TypeError, AttributeError):
        return False
    return outline is None or outline == outline_of_weights(weights.tensors)


def _build(
    architecture: str | None,
    cfg: dict[str, Any],
    weights: Weights,
    where: str,
    *,
    name: str,
    preprocess: Mapping[str, Any],
    fetch: bool = False,
) -> DualEncoder:
    what = architecture or "OpenAI's form"
    module = build_with_weights(cfg, weights.tensors, where, what, fetch=fetch)
    tokenizer = build_tokenizer(cfg, fetch=fetch)
    encoder = DualEncoder(module, tokenizer, _config(architecture, cfg, name, preprocess), name)
    try:
        return check_usable(encoder)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _config(
    architecture: str | None, cfg: dict[str, Any], name: str, preprocess: Mapping[str, Any]
) -> dict[str, Any]:
    prepared = {
        "size": cfg["vision_cfg"].get("image_size", 224),
        "mode": "RGB",
        **CLIP_PREPROCESSING,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    prepared |= {key: value for key, value in preprocess.items() if key in prepared}
    prepared |= {key: list(prepared[key]) for key in ("mean", "std")}
    return {
        "model_cfg": cfg,
        "preprocess_cfg": prepared,
        "mmpoison": {
            **({"architecture": architecture} if architecture else {}),
            "activation": activation_name(cfg),
            "source": name,
        },
    }


def _preprocessing_of(architecture: str) -> Mapping[str, Any]:
    """Return the preprocessing of an architecture's published weights if all of them agree; else nothing."""
    from open_clip import pretrained

    keys = ("mean", "std", "interpolation", "resize_mode")
    found = [
        {key: tag.get(key) for key in keys}
        for tag in pretrained._PRETRAINED.get(architecture, {}).values()
    ]
    if not found or any(other != found[0] for other in found):
        return {}
    return {key: value for key, value in found[0].items() if value is not None}


def _refuse_transformers(weights: Weights, file: Path) -> None:
    if is_transformers_naming(weights.tensors):
        raise InputError(
            f"{file}: weights of a transformers CLIPModel: give the folder with its config.json, {file.parent}"
        )
