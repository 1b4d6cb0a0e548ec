"""Loads models by name, folder or file."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from mmpoison.base.registry import check_name, unknown_name
from mmpoison.errors import InputError
from mmpoison.models import hugging_face, open_clip_models
from mmpoison.models.architectures import MODELS, architectures
from mmpoison.models.checkpoint import CONFIG_FILE, WEIGHTS_FILES, load_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.hub import hub_file, hub_folder
from mmpoison.models.open_clip_build import BPE_FILE, TEXT_TOWER_FOLDER

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
        return open_clip_models.load_file(Path(file), architecture)
    if "/" in text or "\\" in text:
        return _load_path(text)
    architecture, colon, tag = text.partition(":")
    if not colon:
        return _load_registered(text)
    if not architecture or not tag:
        raise InputError(f"model {text!r}: write ARCHITECTURE:TAG, e.g. ViT-B-32-quickgelu:openai")
    if match := re.fullmatch(r"random(?:-(\d+))?", tag):
        return open_clip_models.load_random(architecture, int(match[1] or 0))
    return open_clip_models.load_tag(architecture, tag)


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
        return open_clip_models.load_file(path)
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
