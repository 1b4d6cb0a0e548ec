"""Reads arrays from the `.npz` files that a cache keeps: a damaged file is as good as none."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.errors import InputError
from mmpoison.files import refuse_special

_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


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
    except (InputError, *_DAMAGED):
        return None
    except AttributeError:
        return None  # one plain array is no archive: it cannot be used as a context
