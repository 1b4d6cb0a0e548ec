"""Reads arrays from the `.npz` files that a cache keeps: a damaged file is as good as none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import refuse_special


def read_arrays(file: Path, *names: str) -> tuple[npt.NDArray[Any], ...] | None:
    """Read arrays by name.

    Args:
        file: A file of `numpy.savez`; no object is unpickled.
        names: Which arrays.

    Returns:
        The arrays in the order of the names, or None where the file is missing, damaged, no regular file, or lacks one.
    """
    try:
        refuse_special(file)
        with np.load(file, allow_pickle=False) as arrays:
            return tuple(np.asarray(arrays[name]) for name in names)
    except Exception:
        # a damaged archive, packing or header raises what zipfile, zlib, ast or tokenize have, and a header that
        # promises more than there is a MemoryError; whatever it is, the arrays are made anew
        return None
