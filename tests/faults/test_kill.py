"""SIGKILL at any moment: the same command gives the same result, and no stray file stays."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import VERBS

FEW = {"run": 1, "sweep": 1}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_killed(
    bench: Any, same_again: Callable[[str, Path], None], tmp_path: Path, verb: str
) -> None:
    _, seconds = bench.undisturbed(verb)
    killed = 0
    shares = bench.shares(verb, FEW.get(verb, 2))
    for number, share in enumerate(shares):
        # where other work slowed the undisturbed run, this one has ended before its kill: earlier then
        for earlier in (1.0, 0.6, 0.35):
            place = tmp_path / f"{number}-{earlier}"
            place.mkdir()
            after = share * seconds * earlier
            result = bench.nursery(bench.arguments(verb), place, signal=signal.SIGKILL, after=after)
            assert result.code in (-signal.SIGKILL, 0), result
            same_again(verb, place)
            if result.code:
                killed += 1
                break
    assert killed, "no kill came in time"
