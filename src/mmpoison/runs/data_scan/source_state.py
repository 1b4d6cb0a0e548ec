"""Identifies the files of a source, so that all passes of a scan, also of one that was killed, read the same data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

from mmpoison.base.files import write_json
from mmpoison.base.untrusted import read_json
from mmpoison.embedded.files import DataFile, each
from mmpoison.embedded.source import EmbeddedSource, ShardError
from mmpoison.errors import InputError

KEY_FILE = "key.json"
BLOCK = 4096
"""Bytes at the beginning and at the end of a file that are compared."""
MISSING = "missing"

FileStates = dict[str, str]
"""The state of each file of a source, by its path."""


def file_states(source: EmbeddedSource) -> FileStates:
    """Return for each file of a source what changes when it is written or replaced.

    Of a file of this machine these are its size, time of change, inode and a hash of its first and last block; of one
    in a store what the store says of its version.
    """
    files = {str(file): file for shard in source.shards for file in _files(shard)}
    remote = any(file.store is not None for file in files.values())
    return dict(zip(files, each(_state, files.values(), remote=remote), strict=True))


def refuse_changed(before: FileStates, now: FileStates) -> None:
    """Compare the states of the files of a source.

    Raises:
        InputError: If one has changed.
    """
    for file, state in now.items():
        if before.get(file) != state:
            raise InputError(
                f"{file}: changed since the scan began, so its results would belong to neither version: let the source "
                "rest, delete the folder of unfinished work (.scanning) and scan again"
            )


def claim_work(work: Path, source: EmbeddedSource, states: FileStates, **settings: Any) -> bool:
    """Take a work folder for a scan, and return whether it holds results of an earlier one of the same source.

    Args:
        work: The folder.
        source: The source.
        states: Of its files.
        **settings: What results depend on besides, as JSON values.

    Raises:
        InputError: If it is a work folder of another scan, or something else, or a file has changed since that scan
            began.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    # without what the headers say, which is part of the states
    shards = [replace(cast("Any", shard), rows=0, dimension=0) for shard in source.shards]
    digest.update(repr(shards).encode("utf-8", "backslashreplace"))
    key = {"scan": digest.hexdigest(), "files": states}
    file = work / KEY_FILE
    if file.is_file():
        known = read_json(file)
        if not isinstance(known, dict) or known.get("scan") != key["scan"]:
            raise InputError(
                f"{work}: holds the unfinished work of another scan: delete it, or choose another --out"
            )
        refuse_changed(known["files"], states)
        return True
    if work.exists() and (not work.is_dir() or any(work.iterdir())):
        raise InputError(f"{work}: is not empty: delete it, or choose another --out")
    write_json(file, key)
    return False


def _files(value: Any) -> Iterator[DataFile]:
    if isinstance(value, DataFile):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _files(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _files(item)


def _state(file: DataFile) -> str:
    try:
        if file.store is None:
            found = Path(file.path).stat()
            last = max(found.st_size - BLOCK, 0)
            blocks = file.bytes_between(0, BLOCK) + file.bytes_between(last, last + BLOCK)
            digest = hashlib.blake2b(blocks, digest_size=16).hexdigest()
            return f"{found.st_size} {found.st_mtime_ns} {found.st_ino} {digest}"
        with file.reading():
            facts = file.store.info(file.path)
    except (OSError, ShardError):
        return MISSING
    names = ("size", "ETag", "etag", "LastModified", "mtime", "ino")
    return str({name: facts.get(name) for name in names})
