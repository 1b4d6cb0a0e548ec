"""Says what a sweep would do: which stages are cached and which are to run, and what the latter will take."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.runs.prepared_run import prepare_run
from mmpoison.runs.progress import SilentProgress
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.run_stages import LARGEST_CACHED, SUSPECTS, stage_keys
from mmpoison.runs.sweeps.folder import SweepFolder
from mmpoison.runs.sweeps.own_models import evicting_runs, saves_models
from mmpoison.runs.sweeps.sweep_runs import Sweep, SweepRun

LOOKED_AT = 12
"""So many runs are looked at for their stages; more are estimated from them."""


@dataclass
class StagePlan:
    """All stages of one name.

    Attributes:
        cached: How many are cached.
        to_run: How many are not.
        seconds: What these will take in one worker; None if no stage like them has been made here.
        bytes: What these will leave on the disk; None likewise.
    """

    cached: int
    to_run: int
    seconds: float | None
    bytes: float | None


@dataclass
class SweepPlan:
    """A list of the stages that a sweep would run or read from the cache.

    Attributes:
        runs: In all.
        done: Complete already.
        looked_at: Runs whose stages were looked at.
        stages: By name, in order, of all missing runs.
    """

    runs: int
    done: int
    looked_at: int
    stages: dict[str, StagePlan] = field(default_factory=dict)


def plan_sweep(
    sweep: Sweep,
    out: Path | None,
    *,
    threads: int = 1,
    device: str = "cpu",
    save_models: bool | None = None,
    on_look: Callable[[int, int], None] = lambda done, total: None,
) -> SweepPlan:
    """List the stages of a sweep's runs, cached or still to run, without running any.

    Args:
        sweep: The runs.
        out: Its folder, which may hold complete ones.
        threads: Of a worker.
        device: Where it computes.
        save_models: As for `run_sweep`.
        on_look: Called with (done, total).

    Raises:
        InputError: If a run that is looked at cannot be run, or the folder is another sweep's.
    """
    missing: list[SweepRun] = list(sweep.runs)
    if out is not None:
        folder = SweepFolder(out)
        folder.check(sweep)
        missing = folder.missing(sweep)
    looked = missing[:: max(1, -(-len(missing) // LOOKED_AT))]
    plan = SweepPlan(len(sweep.runs), len(sweep.runs) - len(missing), len(looked))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        keys = _keys(looked, device, on_look)
    finally:
        torch.set_num_threads(before)
    cache = ContentCache()
    paces = _paces(cache)
    evicting = evicting_runs(sweep, save_models=saves_models(sweep, save_models))
    leaving = SUSPECTS if all(run.id in evicting for run in looked) else ()
    for name, distinct in keys.items():
        to_run = [key for key in distinct.values() if key not in cache]
        # a stage that the runs share does not grow with their number
        grow = len(missing) / len(looked) if len(distinct) == len(looked) else 1.0
        seconds: float | None = 0.0
        size: float | None = 0.0
        for key in to_run:
            pace = paces.get(key.note["like"])
            seconds = (
                None if pace is None or seconds is None else seconds + pace[0] * key.note["work"]
            )
            leaves = pace is not None and name in leaving and pace[1] > LARGEST_CACHED
            size = None if pace is None or size is None else size + (0.0 if leaves else pace[1])
        plan.stages[name] = StagePlan(
            round(grow * (len(distinct) - len(to_run))),
            round(grow * len(to_run)),
            None if seconds is None else grow * seconds,
            None if size is None else grow * size,
        )
    return plan


def _keys(
    runs: list[SweepRun], device: str, on_look: Callable[[int, int], None]
) -> dict[str, dict[str, CacheKey]]:
    """Return the keys of all stages, by name and digest."""
    run_cache = RunCache()
    found: dict[str, dict[str, CacheKey]] = {}
    for number, run in enumerate(runs):
        prepared = prepare_run(run.recipe, run_cache, SilentProgress(), torch.device(device))
        for name, key in stage_keys(prepared, run_cache).items():
            found.setdefault(name, {})[key.digest] = key
        on_look(number + 1, len(runs))
    return found


def _paces(cache: ContentCache) -> dict[str, tuple[float, float]]:
    """Return seconds a unit of work, and bytes, of the stages that ran on this machine, by `like` (`stage_note`)."""
    seen: dict[str, list[tuple[float, float]]] = {}
    for entry in [*cache.entries("stages/finetune"), *cache.entries("stages/filter")]:
        note, seconds = entry.about.get("note"), entry.about.get("seconds")
        if isinstance(note, dict) and isinstance(seconds, int | float) and note.get("work"):
            seen.setdefault(str(note.get("like")), []).append(
                (seconds / float(note["work"]), float(entry.bytes))
            )
    return {
        pace: (statistics.median(s for s, _ in costs), statistics.median(b for _, b in costs))
        for pace, costs in seen.items()
    }
