"""The table of cases."""

from __future__ import annotations

from collections.abc import Callable

from cases.commands import all_goals, commands, determinism
from cases.data import coco_json, ranks, streaming
from cases.judging import embedded_scan, filter, group_memory
from cases.pages import search_page
from cases.scan_clients import scan_clients
from cases.training import (
    embedding,
    image_cache,
    training_step,
    training_step_depthwise,
    training_step_fp32,
)
from harness import Found, measured

ON_THE_PAGE: tuple[Callable[..., Found], ...] = (
    training_step,
    training_step_fp32,
    training_step_depthwise,
    embedding,
    filter,
    group_memory,
    embedded_scan,
    ranks,
    image_cache,
    coco_json,
    all_goals,
    commands,
)
"""In the order of docs/performance.md."""

ELSEWHERE: tuple[Callable[..., Found], ...] = (determinism, scan_clients, search_page, streaming)
"""Their numbers are on the pages of what they measure."""

CASES = {each.__name__: each for each in (*ON_THE_PAGE, *ELSEWHERE)}


def measure(name: str, changes: list[str]) -> Found:
    """Measure one case, for `alone`."""
    return measured(CASES[name], changes)
