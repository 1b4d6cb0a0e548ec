"""SIGKILL at any moment: the same command gives the same result, and no stray file stays."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VERBS = ("poison", "convert", "filter", "train", "sterilize", "run", "sweep")
FEW = {"run": 2, "sweep": 1}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_killed(
    bench: Any, same_again: Callable[[str, Path], None], tmp_path: Path, verb: str
) -> None:
    begun = time.monotonic()
    _, seconds = bench.undisturbed(verb)
    killed = 0
    shares = bench.shares(verb, FEW.get(verb, 3))
    for number, share in enumerate(shares):
        place = tmp_path / str(number)
        place.mkdir()
        result = bench.nursery(
            bench.arguments(verb), place, signal=signal.SIGKILL, after=share * seconds
        )
        assert result.code in (-signal.SIGKILL, 0), result
        killed += result.code != 0
        same_again(verb, place)
    figures = {
        "verb": verb,
        "points": len(shares),
        "killed": killed,
        "seconds of a run": round(seconds, 2),
        "minutes": round((time.monotonic() - begun) / 60, 1),
    }
    print(json.dumps(figures))
    if log := os.environ.get("MMPOISON_FAULT_LOG"):
        with Path(log).open("a") as stream:
            stream.write(json.dumps(figures) + "\n")
