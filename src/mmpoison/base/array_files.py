"""Reads arrays from cached `.npz` files; a damaged file counts as missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import refuse_special


def read_all_arrays(
    file: Path, without: Sequence[str] = (), only: str = ""
) -> dict[str, npt.NDArray[Any]] | None:
    """Read all arrays of a file.

    Args:
        file: As for `read_arrays`.
        without: Names of arrays that are left out.
        only: What names begin with that are read.

    Returns:
        The arrays, or None as `read_arrays`.
    """
    try:
        refuse_special(file)
        with np.load(file, allow_pickle=False) as arrays:
            chosen = [n for n in arrays.files if n not in without and n.startswith(only)]
            return {name: np.asarray(arrays[name]) for name in chosen}
    except Exception:
        return None


def read_arrays(file: Path, *names: str) -> tuple[npt.NDArray[Any], ...] | None:
    """Read arrays by name.

    Args:
        file: A file of `numpy.savez`; no object is unpickled.
        names: Which arrays.

    Returns:
        The arrays in the order of the names, or None if the file is missing, damaged, not regular, or lacks one.
    """
    try:
        refuse_special(file)
        with np.load(file, allow_pickle=False) as arrays:
            return tuple(np.asarray(arrays[name]) for name in names)
    except Exception:
        # damaged files raise errors of zipfile, zlib, ast or tokenize, and a header with a wrong size a MemoryError;
        # in every case the arrays are computed again
        return None
