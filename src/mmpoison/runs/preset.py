"""Applies a recipe's `preset`: the settings of another publication for the attack and the training."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mmpoison.attacks.settings import find_preset
from mmpoison.errors import InputError


def apply_preset(value: dict[str, Any], changed: Collection[str], where: str) -> None:
    """Write the choices of a recipe's preset into its groups, so that the resolved recipe contains all of them.

    A preset on the command line overrides the file. A preset in the file must agree with the file. A key that is
    changed to another value is refused in both cases, so that every run with the preset's name has its choices.

    Args:
        value: The recipe as a mapping, changed in place.
        changed: Dotted keys from the command line.
        where: The file, for messages.

    Raises:
        InputError: If there is no such preset, or the recipe says something else.
    """
    name = value.get("preset")
    if name is None:
        return
    preset = find_preset(name)
    attack, training = value.get("attack"), value.get("training")
    if not isinstance(attack, dict) or not isinstance(training, dict):
        return  # the check of the recipe says what is missing
    over = "preset" in changed
    if over:
        for option in preset.fixed:
            if f"attack.{option}" not in changed:
                attack.pop(option, None)
    if attack.setdefault("preset", name) != name:
        raise InputError(
            f"{where}: preset is {name!r} and attack.preset {attack['preset']!r}: leave one out"
        )
    for key, stands_for in preset.training.items():
        if key not in training or (over and f"training.{key}" not in changed):
            training[key] = stands_for
        elif training[key] != stands_for:
            raise InputError(
                f"{where}: preset {name!r} means training.{key}={stands_for}, the recipe says {training[key]!r}: "
                "leave one of the two out, or set attack.preset alone"
            )
    for ours, theirs in preset.trainable.items():
        if training.get("trainable") == ours:
            training["trainable"] = theirs
