"""Runs a sweep: every run in a worker, failures listed and not fatal.

What runs share (the aligned start, the clean model) is made once by the first of them: the content cache lets the
others wait for it.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmpoison.runs.recipe import Recipe
from mmpoison.runs.sweeps.dispatch import Dispatch, OnChange, SweepState, make_workers
from mmpoison.runs.sweeps.folder import SweepFolder
from mmpoison.runs.sweeps.own_models import evicting_runs, saves_models
from mmpoison.runs.sweeps.placement import place_workers
from mmpoison.runs.sweeps.sweep_runs import Sweep, SweepRun
from mmpoison.runs.sweeps.workers import RunTask


def run_sweep(
    sweep: Sweep,
    out: Path,
    *,
    workers: int | None = 1,
    threads: int = 1,
    retries: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    save_models: bool | None = None,
    on_change: OnChange = lambda state: None,
) -> SweepState:
    """Run all runs of a sweep that are not complete.

    The results do not depend on the number of workers nor on where they are. They may depend, in the last bits, on the
    threads of each worker and on its kind of CPU.

    Args:
        sweep: The runs.
        out: The folder: new, empty, or of an earlier try.
        workers: Processes, each with one run at a time; None for one a GPU, or as many as cores.
        threads: Threads of each.
        retries: How often a run is repeated that crashed or met an error of the machine; an input that is refused is
            not tried again.
        ray: Address of a Ray cluster whose workers do it, or `local`; by default processes of this machine.
        device: Where the workers compute: `auto`, `cpu`, `cuda` (each on one GPU, in turn) or `cuda:N`.
        save_models: Save the checkpoints in the run folders; by default what the recipe says. Where they are not
            saved and there are many goals, large models of single goals leave the cache too (`own_models`).
        on_change: Called with the state, twice a second and at each change.

    Returns:
        The state at the end.

    Raises:
        InputError: If the folder is another sweep's, or there is no such device or cluster.
    """
    folder = SweepFolder(out)
    folder.check(sweep)
    missing = folder.missing(sweep)
    keep = saves_models(sweep, save_models)
    evicting = evicting_runs(sweep, save_models=keep)
    state = SweepState(len(sweep.runs), found=len(sweep.runs) - len(missing))
    if missing:
        # a cluster that is not there is refused before anything is written
        placement = place_workers(workers, device, threads=threads, ray=ray)
        crew = make_workers(placement, len(missing))
    folder.claim(sweep)
    if missing:
        try:
            Dispatch(state, retries, on_change, folder.write_failures).run(
                [_task(folder, run, keep, placement.device, run.id in evicting) for run in missing],
                crew,
            )
        finally:
            for worker in crew:
                worker.stop()
    folder.write_failures(state.failed)
    on_change(state)
    return state


def _task(folder: SweepFolder, run: SweepRun, keep: bool, device: str, evict: bool) -> RunTask:
    group = shared_part(run.recipe)
    return RunTask(run.id, run.recipe, folder.run_folder(run.id), keep, device, group, evict)


def shared_part(recipe: Recipe) -> str:
    """Return what the data and the clean model of a recipe depend on: equal for runs that share them."""
    value = recipe.model_dump(mode="json", include={"seed", "data", "model", "training"})
    return json.dumps(value, sort_keys=True)
