"""Identifies the files of a source, so that results of a scan that was killed are used for the same files alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from mmpoison.base.files import atomic_file
from mmpoison.embedded.files import DataFile
from mmpoison.embedded.source import EmbeddedSource, ShardError
from mmpoison.errors import InputError

KEY_FILE = "key"


def source_key(source: EmbeddedSource, **settings: Any) -> str:
    """Return a hash of the shards, of the sizes and times of their files, and of settings.

    Args:
        source: The source.
        **settings: What results depend on besides, as JSON values.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for shard in source.shards:
        digest.update(repr(shard).encode("utf-8", "backslashreplace"))
        for file in sorted(set(_files(shard)), key=str):
            digest.update(_state(file).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def claim_work(work: Path, key: str) -> bool:
    """Take a work folder for a key, and return whether it holds results of an earlier scan with the same one.

    Raises:
        InputError: If it is a work folder of another scan, or something else.
    """
    file = work / KEY_FILE
    if file.is_file():
        if file.read_text(encoding="utf-8", errors="replace") == key:
            return True
        raise InputError(
            f"{work}: holds the unfinished work of another scan: delete it, or choose another --out"
        )
    if work.exists() and (not work.is_dir() or any(work.iterdir())):
        raise InputError(f"{work}: is not empty: delete it, or choose another --out")
    with atomic_file(file) as temporary:
        temporary.write_text(key, encoding="utf-8")
    return False


def _files(value: Any) -> Iterator[DataFile]:
    if isinstance(value, DataFile):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from _files(getattr(value, each.name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _files(item)


def _state(file: DataFile) -> str:
    try:
        if file.store is None:
            found = Path(file.path).stat()
            return f"{file.path} {found.st_size} {found.st_mtime_ns}"
        with file.reading():
            facts = file.store.info(file.path)
        known = {
            name: facts.get(name) for name in ("size", "ETag", "etag", "LastModified", "mtime")
        }
        return f"{file.path} {known}"
    except (OSError, ShardError):
        return f"{file.path} is missing"
