"""The table of cases."""

from __future__ import annotations

import os
from collections.abc import Callable

from cases import commands, data, judging, pages, scan_clients, training
from harness import Found, clocked, machine, sizes

ON_THE_PAGE: tuple[Callable[..., Found], ...] = (
    training.training_step,
    training.training_step_fp32,
    training.training_step_depthwise,
    training.embedding,
    training.image_cache,
    judging.filter,
    judging.embedded_scan,
    data.ranks,
    data.coco_json,
    commands.all_goals,
    commands.commands,
)
ELSEWHERE = (commands.determinism, data.streaming, pages.search_page, scan_clients.scan_clients)
"""Their numbers are on the pages of what they measure."""

CASES = {each.__name__: each for each in (*ON_THE_PAGE, *ELSEWHERE)}


def measure(name: str, changes: list[str]) -> Found:
    """Measure one case, for `alone`; with the machine, its load before, and the seconds that it took."""
    load = [round(value, 2) for value in os.getloadavg()]
    clock, found = clocked(lambda: CASES[name](**sizes(CASES[name], changes)))
    about = {"machine": machine(), "load_before": load, "seconds": round(float(clock[0]), 1)}
    return about | {"found": found}
