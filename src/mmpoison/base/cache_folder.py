"""Finds the folder of the cache: results that can be computed again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `$MMPOISON_CACHE`, or `mmpoison` in the user's cache folder."""
    if chosen := os.environ.get("MMPOISON_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mmpoison"
