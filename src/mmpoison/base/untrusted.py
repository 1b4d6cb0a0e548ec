"""Reads untrusted text and JSON, with bounds on size, nesting and numbers.

A small file can take gigabytes once it is parsed, crash the parser (nesting), or contain numbers that break later
computations (400 digits, `1e999`, NaN). Such files are read only here, in `untrusted_yaml` and in `untrusted_csv`, so
that each bound is in one place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mmpoison.base.files import refuse_special
from mmpoison.errors import InputError

MAX_JSON_BYTES = 64 << 20
"""Larger than any config, manifest, tokenizer or table of results; a list of pairs is read line by line."""
MAX_LINE_BYTES = 4 << 20
"""One line of JSON lines: an image with all its captions and columns."""
MAX_UNPACKED, UNPACKED_PER_BYTE = 256 << 20, 20
"""Numbers that a file packs may take so much memory, and so much for each of its own bytes."""
MAX_DEPTH = 64
"""Levels of nesting; later code recurses over values, and Python allows about a thousand nested calls."""
MAX_INTEGER = 2**63
"""Integers below it fit 64 bits, in NumPy and Arrow too."""


# -- text ------------------------------------------------------------------------------------------


def read_bytes(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """Read a whole file of bounded size.

    Raises:
        InputError: If it is missing, no regular file, cannot be read, or holds more than `limit` bytes.
    """
    with open_bytes(path) as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({_reason(error)})") from None
    if len(content) > limit:
        raise InputError(f"{path}: larger than {_size(limit)}, which is refused")
    return content


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """Read a whole UTF-8 file of bounded size; a byte order mark is dropped.

    Raises:
        InputError: As `read_bytes`, and if it is not UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None


def plain_file(folder: Path, name: str) -> Path:
    """Return the path of a file in an untrusted folder; refuse a link that leads out of the folder.

    A link could present a file of this machine as part of the folder, and a copy of the folder would then contain that
    file. The Hugging Face cache consists of links into its own repository, which are followed.

    Args:
        folder: The folder.
        name: A file in it.

    Raises:
        InputError: If the name or a link leads out of the folder.
    """
    path = folder / name
    home = folder.absolute()
    hub = ("models--", "datasets--")
    repository = next((p for p in (home, *home.parents) if p.name.startswith(hub)), home)
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        raise InputError(f"{path}: a link that leads nowhere") from None
    if not (target.is_relative_to(home.resolve()) or target.is_relative_to(repository.resolve())):
        raise InputError(f"{path}: leads out of its folder: put the file itself there")
    return path


def most_unpacked(size: int) -> int:
    """Return how many bytes a packed file or a member of an archive may unpack to; `size` is what it takes packed."""
    return MAX_UNPACKED + UNPACKED_PER_BYTE * size


def open_bytes(path: Path) -> BufferedReader:
    """Open a regular file for reading, as `read_bytes` does for files that are read line by line.

    Raises:
        InputError: If it is missing, no regular file, or cannot be opened.
    """
    refuse_special(path)
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)})") from None


def read_lines(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their ends; a byte order mark is dropped.

    Raises:
        InputError: If it is missing, no regular file, cannot be read, is not UTF-8, or has a line of more than `limit`
            bytes.
    """
    with open_bytes(path) as stream:
        try:
            for number, raw in enumerate(bounded_lines(stream, path, limit), start=1):
                yield decode_line(raw, f"{path} line {number}", first=number == 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({_reason(error)})") from None


def decode_line(raw: bytes, where: str, *, first: bool = False) -> str:
    """Decode one line; the byte order mark of a first line is dropped.

    Raises:
        InputError: If it is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8") from None


def bounded_lines(
    stream: BinaryIO, where: str | Path, limit: int = MAX_LINE_BYTES
) -> Iterator[bytes]:
    """Yield the lines of a binary stream with their ends.

    Raises:
        InputError: If a line is longer than `limit` bytes; no more of it is read.
    """
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise InputError(f"{where} line {number}: longer than {_size(limit)}, which is refused")
        yield line


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _size(limit: int) -> str:
    return f"{limit >> 20:,} MiB" if limit >= 1 << 20 else f"{limit:,} bytes"


# -- JSON ------------------------------------------------------------------------------------------


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file.

    Raises:
        InputError: As `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, limit), path)


def parse_json(text: str | bytes, where: str | Path) -> Any:
    """Parse JSON into safe values: finite numbers, bounded nesting.

    An integer of more than 64 bits becomes a float, as in other languages.

    Args:
        text: One JSON value.
        where: Its name in messages.

    Raises:
        InputError: If it is not JSON, nests deeper than `MAX_DEPTH`, or holds a number that is not finite.

    Example:
        >>> parse_json('{"rank": 3}', "metrics.json")
        {'rank': 3}
    """
    return _parse(_DECODER, text, where)


def parse_json_pairs(text: str | bytes, where: str | Path) -> list[tuple[str, Any]]:
    """Parse a JSON object into its names and values in order, also where a name occurs twice.

    Args:
        text: One JSON object.
        where: Its name in messages.

    Raises:
        InputError: As `parse_json`, and if it is not an object.

    Example:
        >>> parse_json_pairs('{"a.jpg": 1, "a.jpg": 2}', "captions.json")
        [('a.jpg', 1), ('a.jpg', 2)]
    """
    outermost: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal outermost
        outermost = pairs  # called for inner objects first
        return dict(pairs)

    value = _parse(_decoder(keep), text, where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: must be a JSON object")
    if _deeper_than([item for _, item in outermost], MAX_DEPTH):
        raise InputError(f"{where}: not valid JSON (nested deeper than {MAX_DEPTH})")
    return outermost


def _parse(decoder: json.JSONDecoder, text: str | bytes, where: str | Path) -> Any:
    try:
        value = decoder.decode(text if isinstance(text, str) else text.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8") from None
    except RecursionError:
        raise InputError(f"{where}: not valid JSON (nested too deep)") from None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: not valid JSON ({str(error)[:200]})") from None
    if _deeper_than(value, MAX_DEPTH):
        raise InputError(f"{where}: not valid JSON (nested deeper than {MAX_DEPTH})")
    return value


def _integer(digits: str) -> int | float:
    # Python takes quadratic time for many digits
    if len(digits) <= 20 and -MAX_INTEGER <= (value := int(digits)) < MAX_INTEGER:
        return value
    return _number(digits)


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is not finite")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _decoder(pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=pairs,
        parse_int=_integer,
        parse_float=_number,
        parse_constant=_refuse_constant,
    )


# made once: making one for each line of a file would take as long as the parsing
_DECODER = _decoder()


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for one in level
            if isinstance(one, (dict, list))
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
