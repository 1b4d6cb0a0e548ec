"""The paper's own numbers, as printed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from mmpoison.base import parse_json


@cache
def paper() -> Mapping[str, Any]:
    """Return the paper's tables and figures by id (`table-3`), and its `data`."""
    file = files("mmpoison_lab.paper") / "paper_values.json"
    value: Mapping[str, Any] = parse_json(file.read_text(encoding="utf-8"), str(file))
    return value


TITLES: dict[str, str] = {data: said["title"] for data, said in paper()["data"].items()}

_SAME = {name: data for data, said in paper()["data"].items() for name in said.get("here", ())}
"""The paper's data set with which each data set is compared."""

ENCODERS = {"clip-vit-b32": "ViT-B/32", "clip-vit-b16": "ViT-B/16", "clip-vit-l14": "ViT-L/14"}
"""The paper's models, by their names in mmpoison."""


def rows_of(table: str, **keys: Any) -> list[Mapping[str, Any]]:
    """Select rows of a table whose cells have these values.

    >>> [row["hit@10"] for row in rows_of("table-3", dataset="flickr-pascal", method="ours")]
    [0.936]
    """
    return [row for row in paper()[table]["rows"] if all(row.get(k) == v for k, v in keys.items())]


def paper_data(name: str) -> str | None:
    """Return the paper's data set to compare measured data with; None for a user's own data.

    >>> paper_data("openmoji-b"), paper_data("my-pairs")
    ('flickr-pascal-b', None)
    """
    base = name.removesuffix("-b")
    same = _SAME.get(base)
    if same is None or base == name:
        return same
    return f"{same}-b"
