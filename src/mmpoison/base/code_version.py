"""Computes one digest of all code that a result depends on, including library versions."""

from __future__ import annotations

import hashlib
import platform
import re
from contextlib import suppress
from functools import cache
from importlib import metadata, util
from pathlib import Path

OWN = "mmpoison"
LARGE = 1 << 20
"""Skip larger files: they are model weights, whose digest is already part of every key that depends on them."""


@cache
def code_version(*made_by: object) -> str:
    """Return a digest of the code and data of mmpoison and its plug-ins, and of the required libraries.

    Any code change invalidates all cached results: there is no cheap proof that a result does not depend on it.

    Args:
        *made_by: Functions, classes, or dotted module names; their packages are included.

    Returns:
        32 hexadecimal digits.

    >>> code_version() == code_version("mmpoison.base.seeding") != code_version("json")
    True
    """
    parts = [platform.python_version()]
    names = (x if isinstance(x, str) else str(getattr(x, "__module__", x)) for x in made_by)
    for package in sorted({OWN, *(name.partition(".")[0] for name in names)}):
        parts += [package, *_contents(package)]
    for requirement in sorted(_requirements()):
        with suppress(metadata.PackageNotFoundError):  # an extra that is not installed
            parts.append(f"{requirement} {metadata.version(requirement)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _contents(package: str) -> list[str]:
    """Return digests of a package's files without importing it. A module is one file, a folder has many."""
    spec = util.find_spec(package)
    if spec is None:
        return []
    places = [Path(each) for each in spec.submodule_search_locations or ()]
    files = [
        (file, file.relative_to(place).as_posix()) for place in places for file in place.rglob("*")
    ]
    if not places and spec.origin is not None:
        files = [(Path(spec.origin), package)]
    return [
        f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file, name in sorted(files, key=lambda each: each[1])
        if file.is_file() and file.suffix != ".pyc" and file.stat().st_size <= LARGE
    ]


def _requirements() -> set[str]:
    required = metadata.requires(OWN) or []
    return {match[0] for each in required if (match := re.match(r"[\w.-]+", each))}
