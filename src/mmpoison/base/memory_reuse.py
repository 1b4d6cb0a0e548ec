"""Keeps freed memory in the process while a block of large computations runs.

The C library of Linux returns every large block to the system when it is freed, and the system zeroes it before it
gives it out again. A step of training frees and takes as much memory as the model and its gradients have: for
ViT-B/32, 150,000 pages of 4 KB, a fifth of a second (`benchmarks/bench.py training_step`).
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_MAX: 0}
_USUAL = {_TRIM_THRESHOLD: 2**26, _MMAP_THRESHOLD: 2**25, _MMAP_MAX: 2**16}
"""What the C library itself adapts to once a block of 32 MB was freed."""

_depth = 0
_change = threading.Lock()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory until the block ends, then return it to the system; does nothing outside of glibc."""
    global _depth
    library = _glibc()
    with _change:
        _depth += 1
        if library is not None and _depth == 1:
            _set(library, _KEEP)
    try:
        yield
    finally:
        with _change:
            _depth -= 1
            if library is not None and not _depth:
                _set(library, _USUAL)
                library.malloc_trim(0)


def _set(library: Any, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)


def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
