"""Loads a model from any form of its name."""

from __future__ import annotations

import difflib
from pathlib import Path

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.models.catalogue import MODELS
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.names import ModelName, parse_model_name


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
