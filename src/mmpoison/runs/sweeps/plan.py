"""What a sweep would do: stages, what the store has of them, and how long, how much memory and disk it will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmpoison.runs.measuring_cost import expected_measuring_time
from mmpoison.runs.prepared_run import prepare_run
from mmpoison.runs.progress import SilentProgress
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.run_stages import stage_keys
from mmpoison.runs.store import StageKey, StageStore
from mmpoison.runs.sweeps.folder import SweepFolder
from mmpoison.runs.sweeps.sweep_runs import Sweep, SweepRun

LOOKED_AT = 12
"""So many runs are looked at for their stages; those of more are reckoned from them."""


@dataclass
class StagePlan:
    """All stages of one name.

    Attributes:
        stages: How many different ones.
        there: How many of them the store has.
        seconds: What the others will take in one worker; None if no stage like them has been made here.
        bytes: What they will take in the store.
    """

    stages: int = 0
    there: int = 0
    seconds: float | None = 0.0
    bytes: float | None = 0.0


@dataclass
class SweepPlan:
    """What is to be done.

    Attributes:
        runs: In all.
        done: Complete already.
        looked_at: Runs whose stages were looked at.
        stages: By name, in order, of all missing runs.
        measuring: Seconds that measuring the models of all missing runs will take; None if not known.
        memory: Bytes that one worker will need at most, as far as is known.
    """

    runs: int
    done: int
    looked_at: int
    stages: dict[str, StagePlan] = field(default_factory=dict)
    measuring: float | None = 0.0
    memory: float | None = None

    @property
    def seconds(self) -> float | None:
        """Of all stages, and of measuring as far as is known, one after the other; None if a stage is not known."""
        known = [*(plan.seconds for plan in self.stages.values()), self.measuring or 0.0]
        return None if None in known else sum(value for value in known if value is not None)

    @property
    def bytes(self) -> float | None:
        """Of all stages; None if one is not known."""
        known = [plan.bytes for plan in self.stages.values()]
        return None if None in known else sum(value for value in known if value is not None)


def plan_sweep(
    sweep: Sweep,
    out: Path | None,
    *,
    threads: int = 1,
    device: str = "cpu",
    store: StageStore | None = None,
    on_look: Callable[[int, int], None] = lambda done, total: None,
) -> SweepPlan:
    """Look at the runs of a sweep, make nothing.

    Args:
        sweep: The runs.
        out: Its folder, which may hold complete ones.
        threads: Of a worker.
        device: Where it computes.
        store: The store of stages.
        on_look: Called with (done, total).

    Raises:
        InputError: If a run that is looked at cannot be run, or the folder is another sweep's.
    """
    store = store or StageStore()
    missing: list[SweepRun] = list(sweep.runs)
    if out is not None:
        folder = SweepFolder(out)
        folder.check(sweep)
        missing = folder.missing(sweep)
    step = max(1, -(-len(missing) // LOOKED_AT))
    looked = missing[::step]
    plan = SweepPlan(len(sweep.runs), len(sweep.runs) - len(missing), len(looked))
    if not looked:
        return plan
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        keys, measuring = _keys(looked, device, on_look)
    finally:
        torch.set_num_threads(before)
    known = store.known()
    for name in keys:
        distinct = keys[name]
        entry = plan.stages[name] = StagePlan(len(distinct))
        costs = [known(key) for key in distinct.values() if key not in store]
        entry.there = len(distinct) - len(costs)
        # a stage that the runs share does not grow with their number
        shared = len(distinct) < len(looked)
        grow = 1.0 if shared else len(missing) / len(looked)
        entry.stages, entry.there = round(entry.stages * grow), round(entry.there * grow)
        if any(cost is None for cost in costs):
            entry.seconds = entry.bytes = None
        else:
            entry.seconds = grow * sum(cost.seconds for cost in costs if cost is not None)
            entry.bytes = grow * sum(cost.bytes for cost in costs if cost is not None)
    known_times = [seconds for seconds in measuring if seconds is not None]
    plan.measuring = (
        len(missing) / len(looked) * sum(known_times) if len(known_times) == len(looked) else None
    )
    memory = [
        cost.memory
        for distinct in keys.values()
        for key in distinct.values()
        if (cost := known(key)) is not None and cost.memory
    ]
    plan.memory = max(memory, default=None)
    return plan


def _keys(
    runs: list[SweepRun], device: str, on_look: Callable[[int, int], None]
) -> tuple[dict[str, dict[str, StageKey]], list[float | None]]:
    """The keys of all stages by name, and what measuring each run will take."""
    run_cache = RunCache()
    found: dict[str, dict[str, StageKey]] = {}
    measuring: list[float | None] = []
    for number, run in enumerate(runs):
        prepared = prepare_run(run.recipe, run_cache, SilentProgress(), torch.device(device))
        for name, key in stage_keys(prepared, run_cache).items():
            found.setdefault(name, {})[key.digest] = key
        measuring.append(expected_measuring_time(prepared, run_cache))
        on_look(number + 1, len(runs))
    return found, measuring
