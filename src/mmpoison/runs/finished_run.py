"""Finds the checkpoints, the data and the manifest of a finished run."""

from __future__ import annotations

from pathlib import Path

from mmpoison.base.untrusted import read_yaml
from mmpoison.datasets.catalogue import load_dataset
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset

MODELS = ("clean_model", "poisoned", "filtered", "robust", "sterilized")
"""Checkpoints of a run, in the order in which they are compared."""

DEMO_RECIPE = "openmoji"


def run_checkpoints(run: Path) -> dict[str, Path]:
    """List the checkpoints of a run by name.

    Raises:
        InputError: If it is no run folder, or has no checkpoints.
    """
    if not (run / "recipe.yaml").is_file():
        raise InputError(f"{run}: no run folder (it has no recipe.yaml)")
    folders = {name: run / "models" / name for name in MODELS}
    found = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if not found:
        raise InputError(f"{run}: has no checkpoints: run it again without --no-models")
    return found


def run_data(run: Path) -> tuple[PairDataset, PoisonManifest | None]:
    """Load the clean data of a run, and the manifest of the poison that its models were trained with.

    Raises:
        InputError: If the recipe is broken, or the data are not where it says.
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
        runs: The folder in which the demo makes its run folders.

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
            f"{runs}/ holds no demo run with checkpoints: `mmpoison demo` makes one, --run DIR names one elsewhere"
        )
    return max(found)[1]


def _recipe_name(file: Path) -> str | None:
    try:
        value = read_yaml(file)
    except InputError:
        return None
    name = value.get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None
