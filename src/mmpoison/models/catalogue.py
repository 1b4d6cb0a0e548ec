"""The contract that every named model keeps, and the registry that finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmpoison.errors import InputError
from mmpoison.models.checkpoint import load_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.registry import Registry


@dataclass(frozen=True)
class ModelSource:
    """A named model.

    Attributes:
        name: Registered name.
        summary: One line: what it is and what it was trained on.
        load: Gives the model, ready to embed.
        aligned: Whether its two encoders share a space already; if not, it must be aligned before use.
    """

    name: str
    summary: str
    load: Callable[[], DualEncoder]
    aligned: bool = True


MODELS: Registry[ModelSource] = Registry("model", "mmpoison.models")


def load_encoder(name_or_path: str | Path) -> DualEncoder:
    """Load a model by registered name, or a checkpoint folder by path.

    Raises:
        InputError: If it is neither, or the checkpoint is broken.
    """
    text = str(name_or_path)
    if text in MODELS:
        return MODELS[text].load()
    if Path(text).exists() or "/" in text or "\\" in text:
        return load_checkpoint(Path(text))
    MODELS[text]  # raises with the nearest name
    raise InputError(f"model {text!r} does not exist")
