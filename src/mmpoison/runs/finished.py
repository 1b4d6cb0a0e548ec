"""Records the time and disk space of finished runs, from which a dry run estimates similar runs."""

from __future__ import annotations

from pathlib import Path

from mmpoison.base.content_cache import digest_of
from mmpoison.base.files import cache_folder, write_json
from mmpoison.base.record import Record
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError
from mmpoison.runs.recipe import Recipe

FOLDER = "finished"
"""Folder in the cache."""


class Finished(Record):
    """The time and disk space of the last run of a kind."""

    seconds: float
    bytes: int


def record_finished(recipe: Recipe, seconds: float, size: int) -> None:
    """Record the time and disk space of a finished run.

    Args:
        recipe: The recipe of the run.
        seconds: Duration of the run.
        size: Size in bytes of the run folder and of the cache entries that the run made.
    """
    write_json(_file(recipe), Finished(seconds=round(seconds, 1), bytes=size).to_json())


def finished_like(recipe: Recipe) -> Finished | None:
    """Return the record of the last similar run, or None.

    A run is similar if its recipe differs only in the seed, goal, name, description or labels.
    """
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
