"""How long measuring the models of a run takes, kept for the plans of later runs; the measurements are not kept."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import write_json
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError
from mmpoison.runs.prepared_run import PreparedRun
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.store import digest_of


def keep_measuring_time(run: PreparedRun, run_cache: RunCache, seconds: float) -> None:
    """Keep what measuring took; of runs of one kind the last one counts, for a sweep has measured shared models then.

    Args:
        run: What was measured.
        run_cache: What this process has loaded.
        seconds: Of time.
    """
    with suppress(OSError):  # no run fails for an estimate
        write_json(_file(run, run_cache), {"seconds_a_row": seconds / _rows(run)})


def expected_measuring_time(run: PreparedRun, run_cache: RunCache) -> float | None:
    """Seconds that measuring a run will take by the last one of its kind; None if none was measured here."""
    try:
        found = read_json(_file(run, run_cache))
        return float(found["seconds_a_row"]) * _rows(run)
    except (InputError, TypeError, KeyError, ValueError):
        return None


def _rows(run: PreparedRun) -> int:
    return max(1, len(run.test.pairs) + len(run.test.gallery))


def _file(run: PreparedRun, run_cache: RunCache) -> Path:
    recipe = run.recipe
    kind: dict[str, Any] = {
        "start": run_cache.identity(run.start)["weights"],
        "on_features": run.on_features,
        "filter": recipe.filter is not None,
        "sterilize": recipe.sterilize is not None,
        "study": sorted(recipe.study),
        "transfer": len(recipe.transfer),
        "device": run.device.type,
        "threads": torch.get_num_threads(),
    }
    return cache_folder() / "measuring" / f"{digest_of(kind)}.json"
