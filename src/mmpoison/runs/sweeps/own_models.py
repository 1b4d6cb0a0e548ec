"""Decides which runs of a sweep delete their models from the cache when they are complete.

A heat map of all goals of a data set has hundreds of runs, each with a model of CLIP's size that nobody asks for again.
"""

from __future__ import annotations

import json
from collections import Counter

from mmpoison.runs.recipe import Recipe
from mmpoison.runs.sweeps.sweep_runs import GOAL, Sweep

HANDFUL = 10
"""With at most so many goals, all models stay in the cache."""

POISONED_BY = {"seed", "data", "model", "attack", "training", "study"}
"""What a poisoned model depends on, as groups of the recipe."""


def evicting_runs(sweep: Sweep, *, save_models: bool) -> frozenset[str]:
    """Return the ids of runs whose own models leave the cache when they are complete.

    That is so in a sweep over more than `HANDFUL` goals, unless models are saved. A run whose poisoned model serves
    another run of the sweep too (two filters of one goal) is not among them. Of the runs that are, only models with
    more than `LARGEST_CACHED` bytes of weights leave.

    Args:
        sweep: The runs.
        save_models: Whether checkpoints are saved in the run folders.
    """
    goals = {json.dumps(run.parameters[GOAL]) for run in sweep.runs if GOAL in run.parameters}
    if save_models or len(goals) <= HANDFUL:
        return frozenset()
    poisoned = {run.id: _poisoned_by(run.recipe) for run in sweep.runs}
    count = Counter(poisoned.values())
    return frozenset(name for name, model in poisoned.items() if count[model] == 1)


def saves_models(sweep: Sweep, save_models: bool | None) -> bool:
    """Return whether checkpoints are saved in the run folders: as asked, by default as the recipe says."""
    return sweep.part.models if save_models is None else save_models


def _poisoned_by(recipe: Recipe) -> str:
    return json.dumps(recipe.model_dump(mode="json", include=POISONED_BY), sort_keys=True)
