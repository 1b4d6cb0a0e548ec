"""`run`: runs a whole recipe, from data to tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.api.evaluation import Evaluation
from mmpoison.api.progress import shown
from mmpoison.base.files import plain_name
from mmpoison.base.processes import find_device
from mmpoison.base.progress import RunProgress
from mmpoison.base.registry import checked
from mmpoison.errors import InputError
from mmpoison.models.checkpoint import load_checkpoint
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.reporting.html_report import write_report
from mmpoison.runs.recipe import Recipe, load_recipe
from mmpoison.runs.recipe_files import recipe_on
from mmpoison.runs.run import run_recipe
from mmpoison.runs.run_folder import holds_another_run, run_checkpoints


@dataclass(frozen=True, repr=False)
class RunResult(Evaluation):
    """A finished run.

    Attributes:
        metrics: The content of `metrics.json`.
        folder: The run folder.
        page: An HTML report of the run in one file, which opens offline.
    """

    folder: Path = Path()
    page: Path = Path()

    def __repr__(self) -> str:
        return super().__repr__().replace("Evaluation(", f"RunResult({str(self.folder)!r}; ", 1)

    def model(self, name: str = "poisoned") -> DualEncoder:
        """Load a model of the run, such as `clean_model`, `filtered`, `robust` or `sterilized`.

        Raises:
            InputError: If the run has no such model, or its models were not saved.
        """
        found = run_checkpoints(self.folder)
        if name not in found:
            raise InputError(f"{self.folder}: no model {name!r}; it has {', '.join(found)}")
        return load_checkpoint(found[name])


@checked
def run(
    recipe: str | Path | Recipe,
    *,
    on: str | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    data_root: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    save_models: bool = True,
    device: str = "auto",
    progress: bool | RunProgress = True,
) -> RunResult:
    """Run a recipe: poison, fine-tune, measure, defend, measure again. A killed run resumes.

    Args:
        recipe: The name of a shipped recipe, the path of a YAML file, or a `Recipe`.
        on: Data set, for a recipe with several, for example `openmoji`.
        out: The run folder; by default one in `runs/`, named after the recipe and its main
            settings.
        seed: Seed for all random choices; the recipe's own by default.
        data_root: Your folder, for data that mmpoison does not generate.
        changes: Dotted keys of the recipe and their values, for example `{"attack.samples": 10}`.
        save_models: Save the checkpoints in the run folder.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.

    Returns:
        The metrics, the folder and the models of the run.

    Raises:
        InputError: If there is no such recipe, it does not match the data, or it is a sweep or an
            experiment, which only `mmpoison run` can run.

    Example:
        ```python
        result = mmpoison.run("openmoji", seed=3, changes={"training.epochs": 2})
        result.metrics.row("sheep2aeroplane", "poisoned").hit_10
        ```
    """
    given = dict(changes or {})
    if data_root is not None:
        given["data.root"] = str(data_root)
    if seed is not None:
        given["seed"] = seed
    if not isinstance(recipe, Recipe):
        chosen = load_recipe(recipe_on(str(recipe), on), given)
    elif given or on:
        raise InputError("a Recipe object takes no changes: use load_recipe(name, changes)")
    else:
        chosen = recipe
    if chosen.sweep is not None:
        raise InputError(
            f"recipe {chosen.name} is a sweep of many runs: start it with `mmpoison run {chosen.name}`"
        )
    folder = run_folder(chosen) if out is None else Path(out)
    with shown(progress) as reporter:
        metrics = run_recipe(
            chosen, folder, progress=reporter, save_models=save_models, device=find_device(device)
        )
    return RunResult(metrics, None, folder, write_report(folder))


def run_folder(recipe: Recipe) -> Path:
    """Return a recipe's default run folder.

    If a run with other settings already has that name, part of the recipe's digest is appended. The same command
    therefore finds its own folder again.
    """
    folder = _named_after(recipe)
    if not holds_another_run(folder, recipe):
        return folder
    digest = hashlib.sha256(recipe.to_yaml().encode()).hexdigest()
    return folder.with_name(f"{folder.name}-{digest[:6]}")


def _named_after(recipe: Recipe) -> Path:
    attack = recipe.attack
    detail = [
        recipe.name,
        *([attack.name] if attack.name != "single-target-label" else []),
        "+".join(attack.goals),
        str(attack.options.get("mode", "add")),
        *(["own"] if attack.options.get("carrier") == "own" else []),
        f"seed{recipe.seed}",
    ]
    # names come from a recipe: replace path separators
    return Path("runs") / plain_name("-".join(detail))
