"""The parameters of a run: the keys of its resolved recipe, and those in which some runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted_yaml import read_yaml
from mmpoison.errors import InputError
from mmpoison.reporting.text import clean

Row = dict[str, Any]

NO_SETTING = ("name", "description", "preset", "seed", "study", "transfer", "sweep", "data.root")
"""Parameters, or groups of them, that do not change what a run's numbers are of."""


def flatten(value: Mapping[str, Any], prefix: str = "") -> Row:
    """Flatten nested mappings to dotted keys; an empty one is left out.

    >>> flatten({"training": {"epochs": 2}, "filter": None})
    {'training.epochs': 2, 'filter': None}
    """
    flat: Row = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat.update(flatten(item, f"{name}."))
        else:
            flat[name] = item
    return flat


def parameters_of(folder: Path) -> Row:
    """Read the parameters of a run under their dotted keys; empty where its folder holds no recipe.

    Raises:
        InputError: If the recipe is broken.
    """
    file = folder / "recipe.yaml"
    if not file.exists():
        return {}
    found = file.stat()
    return dict(_read(file, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=4096)
def _read(file: Path, changed: int, size: int) -> Row:
    """Read the parameters of a recipe file; a page reads them several times, and YAML is slow."""
    value = read_yaml(file)
    if not isinstance(value, Mapping):
        raise InputError(f"{file}: a recipe is a mapping of keys")
    flat = flatten(clean(value))
    # these name the run, and set nothing
    return {k: v for k, v in flat.items() if v is not None and k not in ("seed", "goal", "run")}


def leave_out(parameters: Row, names: Sequence[str]) -> Row:
    """Return parameters without some of them.

    >>> leave_out({"data.name": "coco", "data.root": "x", "seed": 1}, ("data.root", "seed"))
    {'data.name': 'coco'}
    >>> leave_out({"filter.method": "x", "filters": 1}, ("filter",))
    {'filters': 1}
    """
    return {
        key: value
        for key, value in parameters.items()
        if not any(key == name or key.startswith(f"{name}.") for name in names)
    }


def distinguishing_keys(rows: Sequence[Row]) -> list[str]:
    """Find the first keys, in the order of the rows, that distinguish all rows that differ.

    Of keys that change together one is enough.

    >>> distinguishing_keys([{"a": 1, "b": 1, "c": 2}, {"a": 1, "b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4, "d": 0}])
    ['b', 'd']
    """
    keys: list[str] = []
    seen = 1
    for key in dict.fromkeys(key for row in rows for key in row):
        # repr: a list is no key of a set
        found = len({tuple(repr(row.get(k)) for k in (*keys, key)) for row in rows})
        if found > seen:
            keys, seen = [*keys, key], found
    return keys
