"""Decides which value of a recipe's key applies where the file and the command line give several.

From weak to strong: the recipe that a file extends, the file, a variant of its `sweep`, the grid, goals and seeds of
its `sweep`, and what the command line gives. Within the command line the later one wins: `--set data={...}` replaces
the whole group, and a `--set data.options.size=64` after it changes one key of that.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

from mmpoison.errors import InputError


def override(
    value: dict[str, Any], of_file: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Change dotted keys of a recipe, in place: first those of the file, then those of the command line.

    A key of a group that a variant removes (`no-filter: {filter: null}`) changes nothing there: the variant is about
    the missing group, and one key cannot make the group.

    Args:
        value: The recipe as nested mappings.
        of_file: What a variant and a point of the file's grid say, in this order.
        given: What the command line says, in its order.

    Returns:
        The changes that were made: dotted keys to values.

    Raises:
        InputError: If something on the way to a key is no mapping.

    >>> override({"data": {"name": "a"}}, {"data": {"name": "b", "root": "here"}}, {"data.root": "there"})
    {'data': {'name': 'b', 'root': 'here'}, 'data.root': 'there'}
    """
    left_out = {key for key, new in of_file.items() if new is None and key not in given}
    top = {key: new for key, new in given.items() if not within(key, left_out)}
    changes = {**{key: new for key, new in of_file.items() if key not in top}, **top}
    _leave_options_of_another_filter(value.get(FILTER), changes)
    for key, new in changes.items():
        set_key(value, key, copy.deepcopy(new))  # runs share what a variant says
    return changes


FILTER, USUAL_METHOD = "filter", "relevance-filter"
OF_EVERY_FILTER = ("method", "encoder", "trusted", "force")
"""Keys of a filter that are no options of its method."""
CUTS = ("threshold", "clean_loss", "automatic", "labels")
"""Keys of which one says where a filter cuts; `clean_loss` may also bound what labels drop."""


def _leave_options_of_another_filter(part: Any, changes: Mapping[str, Any]) -> None:
    """Remove options of a recipe's filter that its changes replace, in place.

    Another method has its own options and its own cut. Another cut replaces that of the recipe: two would be refused.
    """
    if not isinstance(part, dict):
        return
    method = changes.get(f"{FILTER}.method", part.get("method", USUAL_METHOD))
    if method != part.get("method", USUAL_METHOD):
        for key in set(part) - set(OF_EVERY_FILTER):
            del part[key]
        return
    given = [key for key in CUTS if changes.get(f"{FILTER}.{key}") not in (None, False)]
    if given:
        stays = {"clean_loss"} if "labels" in given else set()
        for key in set(CUTS) - stays:
            part.pop(key, None)


def within(key: str, groups: Collection[str]) -> bool:
    """Return whether a dotted key is in one of some groups, and not the group itself.

    >>> within("data.root", {"data"}), within("data", {"data"}), within("database.a", {"data"})
    (True, False, False)
    """
    return any(key.startswith(f"{group}.") for group in groups)


def set_key(value: dict[str, Any], key: str, new: Any) -> None:
    """Set a dotted key in nested mappings, in place.

    Raises:
        InputError: If something on the way is no mapping.
    """
    parts = key.split(".")
    for part in parts[:-1]:
        child = value.get(part)
        if child is None:
            child = value[part] = {}
        if not isinstance(child, dict):
            raise InputError(f"--set {key}: {part!r} is not a group of keys")
        value = child
    value[parts[-1]] = new
