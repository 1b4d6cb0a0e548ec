"""Locks run folders: one recipe and one process per folder, in which a killed run resumes. Records what runs took."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from mmpoison.base.content_cache import digest_of
from mmpoison.base.files import (
    atomic_file,
    cache_folder,
    lock,
    occupied_by_others,
    one_at_a_time,
    refuse_special,
    remove_all_dead,
    write_json,
)
from mmpoison.base.record import Record
from mmpoison.base.untrusted import read_bytes, read_json, read_yaml
from mmpoison.datasets.catalogue import load_dataset
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset
from mmpoison.runs.recipe import Recipe


def check_folder(out: Path, recipe: Recipe) -> None:
    """Refuse a folder with anything other than an earlier attempt with the same recipe.

    Raises:
        InputError: If the folder holds something else.
    """
    refuse_special(out)
    if out.is_file():
        raise InputError(f"{out}: is a file, not a run folder: choose another --out")
    written = out / "recipe.yaml"
    if occupied_by_others(written):
        raise InputError(f"{out}: contains something other than a run: choose another --out")
    if holds_another_run(out, recipe):
        raise InputError(f"{out}: holds a run of another recipe: choose another --out")


def holds_another_run(out: Path, recipe: Recipe) -> bool:
    """Return whether a run folder belongs to another recipe."""
    written = out / "recipe.yaml"
    return written.is_file() and read_bytes(written) != recipe.to_yaml().encode()


@contextmanager
def held_folder(out: Path, recipe: Recipe) -> Iterator[None]:
    """Lock a run folder while a run writes it; the folder is created if it is missing.

    Raises:
        InputError: If it holds anything other than a run of the same recipe, or another process
            uses it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    written = out / "recipe.yaml"
    with one_at_a_time(out.parent):
        check_folder(out, recipe)
        if not written.is_file():
            text = recipe.to_yaml()
            with atomic_file(written) as temporary:
                temporary.write_text(text, encoding="utf-8")
    with _locked(written):
        remove_all_dead(out)
        yield


def refuse_busy(out: Path) -> None:
    """Refuse a run folder that another process is writing.

    Raises:
        InputError: If another process uses it.
    """
    if (out / "recipe.yaml").is_file():
        with _locked(out / "recipe.yaml"):
            pass


@contextmanager
def _locked(written: Path) -> Iterator[None]:
    handle = os.open(written, os.O_RDONLY)
    try:
        if lock(handle) == "alive":
            raise InputError(
                f"{written.parent}: another process is using it: wait for it, or choose another --out"
            )
        yield
    finally:
        os.close(handle)


def versions() -> dict[str, str]:
    """List the versions of Python and of the libraries that affect the numbers."""
    packages = ("torch", "open_clip_torch", "numpy", "pillow", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


# -- Finds the checkpoints, the data and the manifest of a finished run.


MODELS = ("clean_model", "poisoned", "filtered", "robust", "sterilized")
"""Checkpoints of a run, in the order of comparison."""

DEMO_RECIPE = "demo"


def run_checkpoints(run: Path) -> dict[str, Path]:
    """List the checkpoints of a run by name.

    Raises:
        InputError: If it is not a run folder, or has no checkpoints.
    """
    if not (run / "recipe.yaml").is_file():
        raise InputError(f"{run}: not a run folder (it has no recipe.yaml)")
    folders = {name: run / "models" / name for name in MODELS}
    found = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if not found:
        raise InputError(f"{run}: has no checkpoints: run it again without --no-models")
    return found


def run_data(run: Path) -> tuple[PairDataset, PoisonManifest | None]:
    """Load the clean data and the poison manifest of a run; None without a manifest.

    Raises:
        InputError: If the recipe is broken, or its data are missing.
    """
    from mmpoison.runs.recipe import load_recipe

    recipe = load_recipe(run / "recipe.yaml")
    pairs = load_dataset(
        recipe.data.name, recipe.data.root, seed=recipe.seed, options=recipe.data.options
    )
    manifest = run / "manifest.json"
    return pairs, PoisonManifest.read(manifest) if manifest.is_file() else None


def last_demo(runs: Path) -> Path:
    """Find the run folder of the last demo that saved checkpoints.

    Args:
        runs: The parent folder of the demo's run folders.

    Raises:
        InputError: If there is none.
    """
    found = []
    for recipe in sorted(runs.glob("*/recipe.yaml")):
        folder = recipe.parent
        if _recipe_name(recipe) == DEMO_RECIPE and (folder / "models").is_dir():
            found.append((max(f.stat().st_mtime for f in (folder / "models").iterdir()), folder))
    if not found:
        raise InputError(
            f"{runs}/ holds no demo run with checkpoints: run `mmpoison demo`, or give a run with --run DIR"
        )
    return max(found)[1]


def _recipe_name(file: Path) -> str | None:
    try:
        value = read_yaml(file)
    except InputError:
        return None
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


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
