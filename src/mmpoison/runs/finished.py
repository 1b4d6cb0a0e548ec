"""Remembers what runs took on this machine, so that a dry run can say what others like them will take."""

from __future__ import annotations

from pathlib import Path

from mmpoison.base.content_cache import digest_of
from mmpoison.base.files import cache_folder, write_json
from mmpoison.base.record import Record
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError
from mmpoison.runs.recipe import Recipe

FOLDER = "finished"
"""In the cache."""


class Finished(Record):
    """What the last run of a kind took."""

    seconds: float
    bytes: int


def record_finished(recipe: Recipe, seconds: float, size: int) -> None:
    """Remember what a run took.

    Args:
        recipe: Of the run.
        seconds: From its start to its end.
        size: Bytes that it left: its folder, and what it made in the cache.
    """
    write_json(_file(recipe), Finished(seconds=round(seconds, 1), bytes=size).to_json())


def finished_like(recipe: Recipe) -> Finished | None:
    """Return what the last run took that differs in its seed, goal and name alone; None if none finished here."""
    file = _file(recipe)
    try:
        return Finished.of(read_json(file), file) if file.is_file() else None
    except InputError:
        return None


def _file(recipe: Recipe) -> Path:
    value = recipe.model_dump(
        mode="json", exclude={"name", "description", "seed", "labels", "sweep"}
    )
    del value["attack"]["goal"]
    return cache_folder() / FOLDER / f"{digest_of(value)}.json"
