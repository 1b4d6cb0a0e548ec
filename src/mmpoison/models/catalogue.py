"""The registry of named models, and the record that describes each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmpoison.base.registry import Registry
from mmpoison.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class ModelSource:
    """Description of a named model, and how to load it.

    Attributes:
        name: Registered name.
        summary: One line: what it is and what it was trained on.
        load: Loads the model, in evaluation mode.
        aligned: Whether its two encoders already share a space; if not, it must be aligned before use.
        megabytes: Size of its weights.
        licence: Licence of the weights.
        origin: Where the weights come from.
        is_here: Checks whether it loads without a network.
    """

    name: str
    summary: str
    load: Callable[[], DualEncoder]
    aligned: bool = True
    megabytes: float | None = None
    licence: str = ""
    origin: str = ""
    is_here: Callable[[], bool] = lambda: True


MODELS: Registry[ModelSource] = Registry(
    "model",
    "mmpoison.models",
    group="mmpoison.models",
    needs=("name", "summary", "load", "aligned", "is_here"),
)
