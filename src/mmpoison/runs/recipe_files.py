"""Finds recipe files, selects their parts for one data set, and merges the recipes they extend."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

from mmpoison.base.registry import of_laboratory, unknown_name
from mmpoison.base.untrusted import parse_yaml, read_yaml
from mmpoison.errors import InputError

KEY = "extends"
DEEPEST = 8
WHOLE = ("sweep", "transfer", "study")
"""Groups that an extending recipe replaces as a whole instead of merging them key by key."""

PACKAGES = "mmpoison.recipes"
"""The package with mmpoison's recipe files, and the entry point group of other such packages."""

ON_DATA = "on_data"
"""Key of the parts of a recipe that depend on its data set."""


@functools.cache
def recipe_files() -> Mapping[str, Traversable]:
    """Return the recipe files of all installed packages by name, in natural order.

    If two packages have a recipe of the same name, mmpoison's own is used.
    """
    packages = [*(found.value for found in entry_points(group=PACKAGES)), PACKAGES]
    found = {
        entry.name.removesuffix(".yaml"): entry
        for package in packages
        for entry in files(package).iterdir()
        if entry.name.endswith(".yaml")
    }
    return {name: found[name] for name in sorted(found, key=_counted)}


def shipped_recipes() -> list[str]:
    """List the shipped recipes on each of their data sets: `table-3`, `table-3-openmoji`, ..."""
    return [
        each
        for name in recipe_files()
        for each in (name, *(f"{name}-{on}" for on in _data_of(*_content(name))[1:]))
    ]


class ListedRecipe(NamedTuple):
    """An entry in the list of recipes.

    Attributes:
        name: Its name.
        data: Names of its data sets, the default first; empty if there is only one.
        minutes: Measured duration on two cores with bf16, on OpenMoji scenes if it has them; None
            if it was not measured.
        title: First line of the recipe's header.
    """

    name: str
    data: list[str]
    minutes: int | None
    title: str


MEASURED_ON = "openmoji"
"""The data set of the durations in the list of recipes."""

_MINUTES = re.compile(rf"--on {MEASURED_ON} .*?, (\d+) minutes?\b|\bin about (\d+) minutes\b")
"""Matches the duration in the header of a recipe."""


def listed_recipes() -> list[ListedRecipe]:
    """Describe the shipped recipes, in natural order."""
    rows = []
    for name, file in recipe_files().items():
        header = file.read_text("utf-8").partition("\nname:")[0]
        found = _MINUTES.search(header)
        minutes = int(found[1] or found[2]) if found else None
        title = header.partition("\n")[0].lstrip("# ")
        rows.append(ListedRecipe(name, _data_of(*_content(name)), minutes, title))
    return rows


MOST_WIDTH = len("--on paper | openmoji | flickr8k")
"""Maximum width of the data column; a longer list sticks out of its own line only."""


def list_recipes() -> list[str]:
    """Describe each shipped recipe in one line: name, data sets, minutes and title."""
    rows = listed_recipes()
    data = [f"--on {' | '.join(row.data)}" if row.data else "" for row in rows]
    name_width = max(len(row.name) for row in rows)
    data_width = min(max(map(len, data)), MOST_WIDTH)
    times = ["" if row.minutes is None else f"{row.minutes} min" for row in rows]
    return [
        f"{row.name:<{name_width}}  {on:<{data_width}}  {time:>6}  {row.title}"
        for row, on, time in zip(rows, data, times, strict=True)
    ]


def _counted(name: str) -> list[tuple[int, str]]:
    """Return a sort key for natural order, which compares numbers by value.

    >>> sorted(["figure-10", "figure-5b", "figure-5a", "openmoji"], key=_counted)
    ['figure-5a', 'figure-5b', 'figure-10', 'openmoji']
    """
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def recipe_on(recipe: str, data: str | None) -> str:
    """Return the name of a recipe on one of its data sets, as for `run --on`.

    Args:
        recipe: A shipped recipe, or the path of a YAML file.
        data: A key of its `on_data`; None selects the first.

    Raises:
        InputError: If the recipe has no such data set.
    """
    if data is None:
        return recipe
    content, where = _content(recipe)
    known = _data_of(content, where)
    if data not in known:
        raise InputError(
            f"--on {data!r}: {where} runs on {', '.join(known) or 'one data set: omit --on'}"
        )
    if data == known[0]:
        return recipe
    return f"{recipe}{':' if _is_file(recipe) else '-'}{data}"


def folder_name(recipe: str) -> str:
    """Return the folder name for a recipe's runs.

    >>> folder_name("table-3-openmoji"), folder_name("my/own.yaml"), folder_name("own.yaml:photos")
    ('table-3-openmoji', 'own', 'own-photos')
    """
    file, on = _split(recipe)
    return f"{Path(file).stem}-{on}" if on else Path(file).stem


def read_recipe(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """Read a recipe and merge the recipes it extends, without validating keys.

    Args:
        name_or_path: `openmoji`, `table-3-openmoji`, or a path that ends in `.yaml` or `.yml`. With
            `on_data`, the first data set is used; `FILE.yaml:NAME` selects another.

    Returns:
        The content, and the recipe's name for messages.

    Raises:
        InputError: If there is no such recipe, or it is not a YAML mapping.
    """
    value, where = _read_one(str(name_or_path))

    def read(name: str) -> tuple[dict[str, Any], str]:
        # a path is relative to the file that contains it
        return _read_one(str(Path(where).parent / name) if _is_file(_split(name)[0]) else name)

    return extended(value, where, read), where


def _read_one(text: str) -> tuple[dict[str, Any], str]:
    """Read one recipe on one of its data sets, without the recipes it extends."""
    name, on = _split(text)
    value, where = _content(name)
    known = _data_of(value, where)
    if on and on not in known:
        raise InputError(
            f"{where}: {ON_DATA}: no {on!r} there, only {', '.join(known) or 'nothing'}"
        )
    if known:
        parts = value.pop(ON_DATA)
        part = parts[on or known[0]] or {}
        if not isinstance(part, dict):
            raise InputError(f"{where}: {ON_DATA}.{on or known[0]}: expected a mapping of keys")
        if on and on != known[0] and isinstance(value.get("name"), str):
            value["name"] += f"-{on}"
        value = merged(value, part)
    return value, text if _is_file(name) else f"recipe {text}"


def _split(text: str) -> tuple[str, str]:
    """Split `mine.yaml:photos` or `table-3-openmoji` into the recipe and its data set, or empty."""
    file, colon, on = text.rpartition(":")
    if colon and _is_file(file):
        return file, on
    shipped = recipe_files()
    for name in () if text in shipped else shipped:
        on = text.removeprefix(f"{name}-")
        if on != text and on in _data_of(*_content(name))[1:]:
            return name, on
    return text, ""


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _data_of(content: Mapping[str, Any], where: str) -> list[str]:
    """List the data sets in a recipe's `on_data`."""
    parts = content.get(ON_DATA, {})
    if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts):
        raise InputError(f"{where}: {ON_DATA}: expected a mapping of names, e.g. openmoji: {{}}")
    return list(parts)


def _content(name: str) -> tuple[dict[str, Any], str]:
    """Read a recipe file with all its data sets."""
    if _is_file(name):
        path = Path(name)
        if not path.exists():
            raise InputError(f"{path}: no such recipe file")
        where, value = name, read_yaml(path)
    else:
        if name not in recipe_files():
            message = unknown_name("recipe", name, shipped_recipes(), "mmpoison run")
            raise InputError(message + of_laboratory())
        where, value = f"recipe {name}", copy.deepcopy(_shipped(name))
    if not isinstance(value, dict):
        raise InputError(f"{where}: a recipe is a mapping of keys")
    return value, where


@functools.cache
def _shipped(name: str) -> Any:
    # listing the recipes reads some files several times
    return parse_yaml(recipe_files()[name].read_text("utf-8"), f"recipe {name}")


Read = Callable[[str], tuple[dict[str, Any], str]]


def extended(value: dict[str, Any], where: str, read: Read) -> dict[str, Any]:
    """Merge a recipe into the recipes it extends.

    Groups are merged key by key, except `sweep`, `transfer` and `study`, which are replaced like
    single values. Null removes a group.

    Args:
        value: The content of a recipe, with or without `extends: NAME`.
        where: Name of the recipe in messages.
        read: Reads a recipe by its name or path.

    Raises:
        InputError: If another recipe cannot be read, or the recipes extend each other in a circle.
    """
    chain = [where]
    layers = [dict(value)]
    while (name := layers[-1].pop(KEY, None)) is not None:
        if not isinstance(name, str):
            raise InputError(f"{chain[-1]}: {KEY}: give the name of one recipe, not {name!r}")
        other, name_of_other = read(name)
        if name_of_other in chain or len(chain) == DEEPEST:
            raise InputError(f"{where}: recipes extend each other in a circle: {', '.join(chain)}")
        chain.append(name_of_other)
        layers.append(dict(other))
    whole: dict[str, Any] = {}
    for layer in reversed(layers):
        for key, new in layer.items():
            old = whole.get(key)
            whole[key] = new if key in WHOLE else merged(old, new)
    return whole


def merged(old: Any, new: Any) -> Any:
    """Merge `new` into `old` key by key; values that are not groups are replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return {**old, **{key: merged(old.get(key), item) for key, item in new.items()}}
