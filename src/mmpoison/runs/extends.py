"""`extends:` in a recipe: another recipe with changes, so that a table's recipe says what it is about and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmpoison.errors import InputError

KEY = "extends"
DEEPEST = 8
WHOLE = ("sweep", "transfer", "study")
"""Groups of which the recipe that extends has its own or the other's, never a mixture."""

Read = Callable[[str], tuple[dict[str, Any], str]]


def extended(value: dict[str, Any], where: str, read: Read) -> dict[str, Any]:
    """A recipe with everything that it takes over from those it extends.

    A group of keys is taken over key by key, but for `sweep`, `transfer` and `study`; everything else is replaced. Null
    leaves a group out.

    Args:
        value: The content of a recipe, perhaps with `extends: NAME`.
        where: What it is called in messages.
        read: Reads a recipe by its name or path.

    Raises:
        InputError: If the other recipe cannot be read, or recipes extend each other in a circle.
    """
    chain = [where]
    layers = [dict(value)]
    while (name := layers[-1].pop(KEY, None)) is not None:
        if not isinstance(name, str):
            raise InputError(f"{chain[-1]}: {KEY}: the name of one recipe is needed, not {name!r}")
        other, called = read(name)
        if called in chain or len(chain) == DEEPEST:
            raise InputError(f"{where}: recipes extend each other in a circle: {', '.join(chain)}")
        chain.append(called)
        layers.append(dict(other))
    whole: dict[str, Any] = {}
    for layer in reversed(layers):
        for key, new in layer.items():
            old = whole.get(key)
            whole[key] = new if key in WHOLE else merged(old, new)
    return whole


def merged(old: Any, new: Any) -> Any:
    """Keys of `new` over those of `old`, group by group; what is no group is replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: merged(old.get(key), item) for key, item in new.items()}}
