"""Shared by the benchmarks: sizes from the command line, clocks, and separate processes.

A case is a function: its parameters are the sizes, its docstring says what is measured, and its result is JSON. The
page of performance quotes the result by its keys (`page_numbers.py`).
"""

from __future__ import annotations

import inspect
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mmpoison.errors import InputError

# the page is written by the tools of the documentation
sys.path.append(str(Path(__file__).parents[1] / "docs/tools"))

Found = dict[str, Any]
"""What a case measured: JSON."""


def sizes(measure: Callable[..., Found], changes: Sequence[str]) -> dict[str, Any]:
    """Read changed sizes of a case, each `NAME=VALUE` of the type of its default; lists with commas.

    Raises:
        InputError: If there is no such size.
    """
    defaults = {name: one.default for name, one in inspect.signature(measure).parameters.items()}
    found = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in defaults:
            raise InputError(f"{measure.__name__}: no size {name!r}, but {', '.join(defaults)}")
        kind = type(defaults[name])
        found[name] = tuple(map(int, text.split(","))) if kind is tuple else kind(text)
    return found


# -- measuring ---------------------------------------------------------------------------------------------------------

Clock = np.ndarray[Any, Any]
"""Wall time and processor time, shape `(2,)`."""


def now() -> Clock:
    """Read both clocks; processor time is that of all threads and of child processes that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(each.ru_utime + each.ru_stime for each in used)])


def clocked(work: Callable[[], Any]) -> tuple[Clock, Any]:
    """Return the times of a function, and its result."""
    begun = now()
    result = work()
    return now() - begun, result


def compared(times: Mapping[str, Sequence[Clock]]) -> Found:
    """Summarise rounds of several ways: the first is ours, the others are its peers.

    Returns:
        `seconds` of each way (median, min, max), and by how much we are faster than each peer: `ratio` of wall time,
        `cpu_ratio` of processor time, which others on the machine blur less; each is the median over the rounds.
    """
    ours = np.array(next(iter(times.values())))
    found: Found = {"seconds": {}, "ratio": {}, "cpu_ratio": {}}
    for name, each in times.items():
        wall = np.array(each)[:, 0]
        found["seconds"][name] = {"median": median(wall), "min": min(wall), "max": max(wall)}
        if len(found["seconds"]) > 1:
            ratios = np.median(np.array(each) / ours, axis=0)
            found["ratio"][name], found["cpu_ratio"][name] = ratios.tolist()
    return found


def take_turns(
    ways: Mapping[str, Callable[[], Any]], rounds: int = 3
) -> tuple[Found, dict[str, Any]]:
    """Run several ways in turn, for several rounds; return the result of `compared`, and each way's last result."""
    times: dict[str, list[Clock]] = {name: [] for name in ways}
    results = {}
    for _ in range(rounds):
        for name, work in ways.items():
            clock, results[name] = clocked(work)
            times[name].append(clock)
    return compared(times), results


def alone(work: Callable[..., Any], *arguments: Any, **environment: str) -> Found:
    """Run a function of a module in a process of its own: it has its own peak memory, and nothing is imported before.

    Args:
        work: The function; its result must be JSON.
        arguments: JSON, too.
        environment: Variables of the process.

    Returns:
        Its `result`, `seconds`, `cpu_seconds`, and `peak_gib` of it or of its largest child.
    """
    task = json.dumps([work.__module__, work.__name__, arguments])
    command = [sys.executable, __file__, task]
    output = subprocess.check_output(command, env=os.environ | environment, text=True)
    return dict(json.loads(output.splitlines()[-1]))


def mmpoison(*arguments: str) -> None:
    """Run a command line, for `alone`."""
    from mmpoison.cli import main

    sys.argv = ["mmpoison", *arguments]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise


def peak_gib() -> float:
    """Return the peak memory of this process, or of its largest child."""
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # its own ru_maxrss would count the process that started it
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return max(largest, int(found[1]) if found else 0) / 2**20


def machine() -> Found:
    """Describe the facts of the machine that the figures depend on."""
    import torch

    from mmpoison.base.processes import cores
    from mmpoison.models.compute_environment import cpu_kind

    flags = Path("/proc/cpuinfo").read_text("utf-8") if Path("/proc/cpuinfo").exists() else ""
    bf16 = "AMX" if "amx_bf16" in flags else "AVX512" if "avx512_bf16" in flags else "none"
    return {"processor": cpu_kind(), "bf16": bf16, "cores": cores(), "torch": torch.__version__}


def flat(found: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a nested result with their keys, or their positions in lists."""
    inside = dict(enumerate(found)) if isinstance(found, list) else found
    if isinstance(inside, Mapping):
        for name, value in inside.items():
            yield from flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, inside


if __name__ == "__main__":
    module, function, given = json.loads(sys.argv[1])
    chosen = getattr(import_module(module), function)
    spent, value = clocked(lambda: chosen(*given))
    told = {"result": value, "seconds": spent[0], "cpu_seconds": spent[1], "peak_gib": peak_gib()}
    print(json.dumps(told))
