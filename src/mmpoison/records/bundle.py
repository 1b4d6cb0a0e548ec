"""The bundle of a run: one zip file without images and weights, from which somebody else runs it again."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mmpoison.base.files import atomic_file, refuse_special
from mmpoison.base.phrasing import one_line
from mmpoison.base.untrusted import parse_json
from mmpoison.errors import InputError

ENDING = ".zip"
FACTS, RECIPE, METRICS, MANIFEST, PAGE = (
    "bundle.json",
    "recipe.yaml",
    "metrics.json",
    "manifest.json",
    "report.html",
)
MEMBERS = (FACTS, RECIPE, MANIFEST, METRICS, PAGE)

NEEDS = "needs"
"""Key of a recipe in a bundle: the dotted keys that only the maker's machine had, which others must give."""

MOST_PACKED = 64 << 20
"""Bytes of a bundle."""
MOST_BYTES = 128 << 20
"""Bytes of one file in it."""

# the same content is the same file, whenever it is written
_WHEN = (1980, 1, 1, 0, 0, 0)
_BROKEN = (
    zipfile.BadZipFile,
    NotImplementedError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


def is_bundle(name: str) -> bool:
    """Return whether the name of a recipe is that of a bundle.

    >>> is_bundle("run.zip"), is_bundle("openmoji")
    (True, False)
    """
    return name.lower().endswith(ENDING)


def write_members(file: Path, members: Mapping[str, bytes]) -> None:
    """Write a bundle, whole or not at all.

    Args:
        file: The zip file; an existing one is replaced.
        members: Content by name.

    Raises:
        InputError: If one is too large to be read again.
    """
    for name, content in members.items():
        if len(content) > MOST_BYTES:
            raise InputError(f"{name}: has {len(content):,} bytes, a bundle takes {MOST_BYTES:,}")
    with (
        atomic_file(file) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, content in members.items():
            info = zipfile.ZipInfo(name, _WHEN)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def read_member(file: Path, name: str) -> bytes:
    """Read one file of a bundle, which may come from anybody: nothing is written to disk.

    Args:
        file: The zip file.
        name: One of `MEMBERS`.

    Raises:
        InputError: If there is no such file, it is no bundle (another file, a link, a path that leads out, or a second
            file of one name in it), or it is too large.
    """
    if not file.exists():
        raise InputError(f"{file}: no such file")
    refuse_special(file)
    if not file.is_file():
        raise InputError(f"{file}: is a folder, the zip file of a bundle is needed")
    if file.stat().st_size > MOST_PACKED:
        raise InputError(f"{file}: has over {MOST_PACKED:,} bytes, a bundle has not")
    try:
        with zipfile.ZipFile(file) as archive:
            _check(archive, file)
            if name not in archive.namelist():
                raise InputError(f"{file}: is no bundle of a run, it has no {name}")
            with archive.open(name) as stream:
                # a member may hold more than it claims
                content = stream.read(MOST_BYTES + 1)
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{file}: broken zip file ({one_line(str(error))})") from None
    if len(content) > MOST_BYTES:
        raise InputError(f"{file}: {name} unpacks to more than {MOST_BYTES:,} bytes (a bomb?)")
    return content


def read_facts(file: Path) -> dict[str, Any]:
    """Read what a bundle says of itself: versions, goals.

    Raises:
        InputError: As `read_member`, or if it is no JSON object.
    """
    facts = parse_json(read_member(file, FACTS), f"{file}: {FACTS}")
    if not isinstance(facts, dict):
        raise InputError(f"{file}: {FACTS} must be a JSON object")
    return facts


def _check(archive: zipfile.ZipFile, file: Path) -> None:
    """Refuse a zip file that holds anything but the files of a bundle."""
    seen: set[str] = set()
    for info in archive.infolist():
        name = info.filename
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise InputError(
                f"{file}: {one_line(name)!r:.100} is a link or a device, it is refused"
            )
        if name not in MEMBERS or name != PurePosixPath(name).name:
            raise InputError(f"{file}: is no bundle of a run, it holds {one_line(name)!r:.100}")
        if name in seen:
            raise InputError(f"{file}: {name} occurs twice, it is refused")
        if info.flag_bits & 0x1:
            raise InputError(f"{file}: {name} is encrypted")
        if info.file_size > MOST_BYTES:
            raise InputError(f"{file}: {name} unpacks to more than {MOST_BYTES:,} bytes (a bomb?)")
        seen.add(name)
