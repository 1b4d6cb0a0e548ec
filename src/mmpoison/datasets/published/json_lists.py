"""Reads the lists in large JSON files: straight into small typed records, without building what is not needed.

An entry that is not of its type is left out and named; only then is the file read a second time, entry by entry.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from mmpoison.base.untrusted import open_bytes
from mmpoison.errors import InputError

T = TypeVar("T")

# a number of hundreds of digits is valid JSON, and no id
Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

_BOM = b"\xef\xbb\xbf"
# a broken escape is a DecodeError, bytes that are no UTF-8 a UnicodeDecodeError
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def map_file(path: Path) -> memoryview:
    """Map a file into memory; the system reads pages when needed and can release them again.

    Raises:
        InputError: If there is no such file, or it is empty or cannot be read.
    """
    with open_bytes(path) as stream:
        try:
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:
            raise InputError(f"{path}: is empty, JSON is needed") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return data[len(_BOM) :] if data[: len(_BOM)] == _BOM else data


def decode_file(path: Path, kind: type[T]) -> T:
    """Decode a whole file as one typed value.

    Raises:
        InputError: If it is missing, no JSON, or not of this type.
    """
    try:
        return msgspec.json.decode(map_file(path), type=kind)
    except _BROKEN as error:
        raise InputError(f"{path}: {broken_json(error)}") from None


def read_lists(
    path: Path, lists: Mapping[str, type[Any]], problem: Callable[[str], None]
) -> dict[str, list[Any]]:
    """Read the lists of a JSON object, each of records of one type.

    Args:
        path: The file: an object that holds at least these lists.
        lists: Name of each list, and the type of its entries.
        problem: Called with each entry that is not of its type.

    Returns:
        The lists by name; None stands in the place of a broken entry, so that positions stay those of the file.

    Raises:
        InputError: If the file is missing, no JSON, or has no such list.
    """
    whole = msgspec.defstruct("Whole", [(name, list[kind]) for name, kind in lists.items()])  # type: ignore[valid-type]
    try:
        found = msgspec.json.decode(map_file(path), type=whole)
        return {name: getattr(found, name) for name in lists}
    except _BROKEN:
        pass
    loose = decode_file(path, msgspec.defstruct("Loose", [(n, list[msgspec.Raw]) for n in lists]))
    decoders = {name: msgspec.json.Decoder(kind) for name, kind in lists.items()}
    return {
        name: [
            decode_entry(raw, decoder, f"{path.name} {name}[{index}]", problem)
            for index, raw in enumerate(getattr(loose, name))
        ]
        for name, decoder in decoders.items()
    }


def decode_entry(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[T], where: str, problem: Callable[[str], None]
) -> T | None:
    """Decode one entry as a typed record, or None and a problem."""
    try:
        return decoder.decode(raw)
    except _BROKEN as error:
        problem(f"{where}: {broken_json(error)}")
        return None


def broken_json(error: Exception) -> str:
    """Say what is wrong with JSON on one line."""
    if isinstance(error, msgspec.ValidationError):
        return f"not as it should be ({error})"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.object[error.start]:#04x})"
    if isinstance(error, RecursionError):
        return "not valid JSON (brackets without end)"
    return f"not valid JSON ({error})"
