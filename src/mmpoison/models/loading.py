"""Loads models by name, folder or file, or by open_clip's names: published, local or random weights."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpoison.base.registry import check_name, unknown_name
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError
from mmpoison.models import hugging_face
from mmpoison.models.architectures import (
    MODELS,
    QUICK_GELU_SUFFIX,
    activation_name,
    architecture_config,
    architectures,
    check_activation,
    published_activation,
    sibling,
    tag_activation,
    uses_quick_gelu,
)
from mmpoison.models.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILES,
    Checkpoint,
    load_checkpoint,
    open_clip_checkpoint,
)
from mmpoison.models.dual_encoder import CLIP_PREPROCESSING, DualEncoder
from mmpoison.models.hub import hub_file, hub_folder, hub_if_reached, not_fetched
from mmpoison.models.hugging_face import is_transformers_naming
from mmpoison.models.open_clip_build import (
    BPE_FILE,
    TEXT_TOWER_FOLDER,
    build_module,
    build_tokenizer,
)
from mmpoison.models.weights_file import Weights, read_weights

HUB_PREFIX = "hf-hub:"
LOCAL_PREFIX = "local-dir:"

_SMALL_FILES = (
    CONFIG_FILE,
    hugging_face.CONFIG_FILE,
    hugging_face.PREPROCESSOR_FILE,
    BPE_FILE,
    f"{TEXT_TOWER_FOLDER}/config.json",
    *("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "*.model"),
)


def load_encoder(name_or_path: str | Path) -> DualEncoder:
    """Load a model by name, or from a folder or file.

    Args:
        name_or_path: A registered name, `ARCHITECTURE:TAG`, `ARCHITECTURE@FILE`, `ARCHITECTURE:random`,
            `hf-hub:owner/name`, a folder (ours, open_clip's or a transformers `CLIPModel`), or a file of weights.

    Raises:
        InputError: If there is no such model, it is broken, or its weights do not match its architecture.

    Example:
        >>> encoder = load_encoder("openmoji-mini")
        >>> encoder.image_size
        64
    """
    check_name("model", name_or_path)
    text = str(name_or_path)
    if isinstance(name_or_path, Path):
        return _load_path(text)
    if text.startswith(HUB_PREFIX):
        return _load_hub(text)
    if text.startswith(LOCAL_PREFIX):
        return _load_path(text.removeprefix(LOCAL_PREFIX))
    if Path(text).exists():
        return _load_path(text)
    architecture, at, file = text.partition("@")
    if at and "/" not in architecture:
        if not architecture or not file:
            raise InputError(f"model {text!r}: write ARCHITECTURE@FILE")
        return load_file(Path(file), architecture)
    if "/" in text or "\\" in text:
        return _load_path(text)
    architecture, colon, tag = text.partition(":")
    if not colon:
        return _load_registered(text)
    if not architecture or not tag:
        raise InputError(f"model {text!r}: write ARCHITECTURE:TAG, e.g. ViT-B-32-quickgelu:openai")
    if match := re.fullmatch(r"random(?:-(\d+))?", tag):
        return load_random(architecture, int(match[1] or 0))
    return load_tag(architecture, tag)


def _load_registered(name: str) -> DualEncoder:
    if name in MODELS:
        return MODELS[name].load()
    MODELS.refuse_unusable(name)
    if not difflib.get_close_matches(name, MODELS, n=1) and name in architectures():
        raise InputError(
            f"{name!r} is an architecture without weights: write {name}:TAG, {name}@FILE or {name}:random"
        )
    raise InputError(
        f"{unknown_name('model', name, MODELS)}; or ARCHITECTURE:TAG, ARCHITECTURE@FILE, hf-hub:owner/name, "
        "a folder or a file"
    )


def _load_path(text: str) -> DualEncoder:
    path = Path(text)
    if path.is_file():
        return load_file(path)
    if not path.exists():
        hub = text.count("/") == 1 and not text.startswith((".", "/", "~"))
        hint = f"; for a repository on the hub write hf-hub:{text}" if hub else ""
        raise InputError(f"{path}: no such checkpoint folder or file{hint}")
    return _load_folder(path)


def _load_folder(folder: Path, name: str | None = None, *, fetch: bool = False) -> DualEncoder:
    if (folder / CONFIG_FILE).is_file() or not (folder / hugging_face.CONFIG_FILE).is_file():
        return load_checkpoint(folder, name, fetch=fetch)
    return hugging_face.transformers_checkpoint(folder).build(name)


def _load_hub(text: str) -> DualEncoder:
    """Load a hub repository in open_clip's or transformers' format, downloading only the needed files."""
    repository, _, revision = text.removeprefix(HUB_PREFIX).partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
        raise InputError(f"model {text!r}: {HUB_PREFIX} needs a repository, e.g. hf-hub:owner/name")
    folder = hub_folder(repository, _SMALL_FILES, revision=revision)
    open_clip = (folder / CONFIG_FILE).is_file()
    names = WEIGHTS_FILES if open_clip else hugging_face.WEIGHTS_FILES
    weights = hub_file(repository, names, revision=revision)
    if weights.name.endswith(".index.json"):
        hub_folder(repository, ["model-*.safetensors"], revision=revision)
    return _load_folder(folder, f"{HUB_PREFIX}{repository}", fetch=True)


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
