"""A run folder belongs to one recipe: nothing else is put there, and a killed run goes on in it."""

from __future__ import annotations

import platform
import shutil
from importlib import metadata
from pathlib import Path

from mmpoison.errors import InputError
from mmpoison.experiments.recipe import Recipe
from mmpoison.files import atomic_file, half_written, occupied_by_others, refuse_special
from mmpoison.untrusted import read_bytes


def check_folder(out: Path, recipe: Recipe) -> None:
    """Refuse a run folder that holds anything but an earlier try of the same recipe.

    Raises:
        InputError: If the folder holds something else.
    """
    refuse_special(out)
    if out.is_file():
        raise InputError(f"{out}: is a file, a run folder is needed: choose another --out")
    written = out / "recipe.yaml"
    if occupied_by_others(written):
        raise InputError(f"{out}: holds something that is not a run: choose another --out")
    if written.is_file() and read_bytes(written) != recipe.to_yaml().encode():
        raise InputError(f"{out}: holds a run of another recipe: choose another --out")


def claim_folder(out: Path, recipe: Recipe) -> None:
    """Make a run folder, or take up one of the same recipe that was left unfinished."""
    check_folder(out, recipe)
    written = out / "recipe.yaml"
    # what a killed run left half-written, and nothing else that is hidden
    half = [*out.glob(".*.json.*"), *out.glob(".*.html.*"), *(out / "models").glob(".*.*")]
    for leftover in (*half_written(written), *half):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    if written.is_file():
        return
    text = recipe.to_yaml()
    with atomic_file(written) as temporary:
        temporary.write_text(text, encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = ("torch", "open_clip_torch", "numpy", "pillow", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
