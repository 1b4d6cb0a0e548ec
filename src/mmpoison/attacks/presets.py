"""Named sets of choices that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError


@dataclass(frozen=True)
class Preset:
    """Choices that somebody else made, under one name.

    Attributes:
        name: What recipes, manifests and the command line call it.
        summary: One line.
        fixed: Options of attacks that it stands for; asking for another value together with it is an error.
        usual: Options that it gives where none is given.
        training: Training settings that it stands for, in a recipe.
        trainable: Training setting `trainable` as it is called here, to what is trained under the preset.
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
            "all captions of an image go to the same target image, attack I aims at the centre of the class, batches "
            "of 256, a frozen text encoder keeps its embeddings and projection trainable"
        ),
        fixed={"mode": "replace", "spread": "samples"},
        usual={"share": 1.0, "target_image": "centre"},
        training={"batch_size": 256},
        trainable={"image": "text-transformer-frozen"},
    )
}


def find_preset(name: str) -> Preset:
    """The preset of a name; an unknown one is an `InputError` with the nearest."""
    try:
        return PRESETS[name]
    except (KeyError, TypeError):
        raise InputError(unknown_name("preset", str(name), list(PRESETS))) from None


def choices(
    preset: str | None, usual: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of an attack: as given, else those of the preset, else the usual ones.

    Args:
        preset: Name of a preset, or None.
        usual: The options with their default values.
        given: Values by name; None stands for "not given".

    Raises:
        InputError: If the preset is unknown, or stands for something else than is given.

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
                f"preset {preset!r} stands for {name}={fixed}, asked for is {name}={value}: "
                "leave one of the two out"
            )
        values[name] = value
    return values
