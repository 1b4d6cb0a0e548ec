"""Writes and reads the verdicts of a filter in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.content_cache import read_arrays
from mmpoison.base.files import atomic_file, write_json
from mmpoison.base.untrusted import read_json
from mmpoison.defenses.filter_result import FilterResult
from mmpoison.errors import InputError
from mmpoison.pairs.table import BoolArray

ARRAYS, FACTS = "verdicts.npz", "facts.json"


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on pairs.

    Attributes:
        keep: Whether each pair stays, shape `(N,)`.
        distances: Score of each, shape `(N,)`.
        facts: For `metrics.json`.
    """

    keep: BoolArray
    distances: npt.NDArray[np.float64]
    facts: dict[str, Any]


def store_verdicts(folder: Path, result: FilterResult) -> None:
    """Write verdicts."""
    with atomic_file(folder / ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez(stream, keep=result.keep, distances=result.scores)
    write_json(folder / FACTS, result.facts())


def read_verdicts(folder: Path, pairs: int) -> Verdicts:
    """Read the verdicts on a given number of pairs.

    Raises:
        InputError: If they are broken, or on other pairs.
    """
    found = read_arrays(folder / ARRAYS, "keep", "distances")
    facts = read_json(folder / FACTS)
    if found is None or not isinstance(facts, dict):
        raise InputError(f"{folder / ARRAYS}: missing or damaged")
    verdicts = Verdicts(found[0], found[1], facts)
    if not len(verdicts.keep) == len(verdicts.distances) == pairs:
        raise InputError(f"{folder / ARRAYS}: is on other pairs")
    return verdicts
