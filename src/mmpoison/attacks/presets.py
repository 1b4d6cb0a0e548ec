"""Presets: named sets of options for attacks and training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError


@dataclass(frozen=True)
class Preset:
    """A named set of options, such as those of the authors' released code.

    Attributes:
        name: Its name in recipes, manifests and on the command line.
        summary: One line.
        fixed: Options of attacks that it fixes; a different value together with the preset is an error.
        usual: Options that it sets unless another value is given.
        training: Training settings that it fixes in a recipe.
        trainable: From the training setting `trainable` to what the preset trains instead.
    """

    name: str
    summary: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    trainable: Mapping[str, str] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "reference-release": Preset(
        name="reference-release",
        summary=(
            "the choices of the paper authors' released code: poison replaces the clean pairs of the whole class, "
            "all captions of an image go to the same target image, attack I targets the centre of the class, batches "
            "of 256, a frozen text encoder keeps its embeddings and projection trainable"
        ),
        fixed={"mode": "replace", "spread": "samples"},
        usual={"share": 1.0, "target_image": "centre"},
        training={"batch_size": 256},
        trainable={"image": "text-transformer-frozen"},
    )
}


def find_preset(name: str) -> Preset:
    """Return a preset by name; an unknown name is an `InputError` that suggests the nearest one."""
    try:
        return PRESETS[name]
    except (KeyError, TypeError):
        raise InputError(unknown_name("preset", str(name), list(PRESETS))) from None


def choices(
    preset: str | None, usual: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Resolve the options of an attack: the given value, else the preset's, else the default.

    Args:
        preset: Name of a preset, or None.
        usual: The options with their default values.
        given: Values by name; None means "not given".

    Raises:
        InputError: If the preset is unknown, or fixes another value than the given one.

    >>> choices("reference-release", {"mode": "add", "spread": "captions"}, {"mode": None})
    {'mode': 'replace', 'spread': 'samples'}
    """
    chosen = find_preset(preset) if preset is not None else Preset("", "")
    values: dict[str, Any] = {}
    for name, default in usual.items():
        fixed = chosen.fixed.get(name)
        value = given.get(name)
        if value is None:
            value = fixed if fixed is not None else chosen.usual.get(name, default)
        elif fixed is not None and value != fixed:
            raise InputError(
                f"preset {preset!r} sets {name}={fixed}, but {name}={value} was given: remove one of the two"
            )
        values[name] = value
    return values
