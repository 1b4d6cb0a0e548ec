"""Loads a model from any form of its name."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.models.catalogue import MODELS
from mmpoison.models.dual_encoder import DualEncoder

# -- Model names: one small grammar for the command line, recipes and Python.


HUB_PREFIX = "hf-hub:"
LOCAL_PREFIX = "local-dir:"
_RANDOM = re.compile(r"random(?:-(\d+))?")

Kind = Literal["name", "tag", "file", "random", "hub", "path"]


@dataclass(frozen=True)
class ModelName:
    """The parts of a model's name.

    Attributes:
        kind: The line of the grammar that it matches.
        head: The registered name, the architecture, the repository, or the path.
        tail: The tag, the file or the revision.
        seed: Seed of random weights.
    """

    kind: Kind
    head: str
    tail: str = ""
    seed: int = 0


def parse_model_name(text: str) -> ModelName:
    """Split a model's name into its parts; only for paths it checks that they exist.

    >>> parse_model_name("ViT-B-32-quickgelu:openai")
    ModelName(kind='tag', head='ViT-B-32-quickgelu', tail='openai', seed=0)
    >>> parse_model_name("ViT-B-32:random-7").seed
    7
    >>> parse_model_name("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K").head
    'laion/CLIP-ViT-B-32-laion2B-s34B-b79K'

    Raises:
        InputError: If a part is missing.
    """
    if text.startswith(HUB_PREFIX):
        repository, _, revision = text.removeprefix(HUB_PREFIX).partition("@")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
            raise InputError(
                f"model {text!r}: {HUB_PREFIX} needs a repository, e.g. hf-hub:owner/name"
            )
        return ModelName("hub", repository, revision)
    if text.startswith(LOCAL_PREFIX):
        return ModelName("path", text.removeprefix(LOCAL_PREFIX))
    if Path(text).exists():
        return ModelName("path", text)
    architecture, at, file = text.partition("@")
    if at and "/" not in architecture:
        if not architecture or not file:
            raise InputError(f"model {text!r}: write ARCHITECTURE@FILE")
        return ModelName("file", architecture, file)
    if "/" in text or "\\" in text:
        return ModelName("path", text)
    architecture, colon, tag = text.partition(":")
    if colon:
        if not architecture or not tag:
            raise InputError(
                f"model {text!r}: write ARCHITECTURE:TAG, e.g. ViT-B-32-quickgelu:openai"
            )
        if match := _RANDOM.fullmatch(tag):
            return ModelName("random", architecture, tag, int(match[1] or 0))
        return ModelName("tag", architecture, tag)
    return ModelName("name", text)


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
    name = (
        ModelName("path", str(name_or_path))
        if isinstance(name_or_path, Path)
        else parse_model_name(name_or_path)
    )
    if name.kind == "name":
        if name.head not in MODELS:
            MODELS.refuse_unusable(name.head)
            raise InputError(_unknown(name.head))
        return MODELS[name.head].load()
    # open_clip takes seconds to import, and a registered name may not need it
    from mmpoison.models import folders, open_clip_models

    if name.kind == "hub":
        return folders.load_hub(name.head, name.tail)
    if name.kind == "tag":
        return open_clip_models.load_tag(name.head, name.tail)
    if name.kind == "random":
        return open_clip_models.load_random(name.head, name.seed)
    if name.kind == "file":
        return open_clip_models.load_file_as(name.head, Path(name.tail))
    path = Path(name.head)
    if path.is_file():
        return open_clip_models.load_bare_file(path)
    if not path.exists():
        hub = name.head.count("/") == 1 and not name.head.startswith((".", "/", "~"))
        hint = f"; for a repository on the hub write hf-hub:{name.head}" if hub else ""
        raise InputError(f"{path}: no such checkpoint folder or file{hint}")
    return folders.load_folder(path)


def _unknown(name: str) -> str:
    if not difflib.get_close_matches(name, MODELS, n=1):
        from mmpoison.models.architectures import architectures

        if name in architectures():
            return f"{name!r} is an architecture without weights: write {name}:TAG, {name}@FILE or {name}:random"
    return (
        f"{unknown_name('model', name, MODELS)}; or ARCHITECTURE:TAG, ARCHITECTURE@FILE, hf-hub:owner/name, "
        "a folder or a file"
    )
