"""Reads untrusted text, JSON and Parquet footers, with bounds on size, nesting and numbers.

A small file can take gigabytes when parsed, crash the parser (nesting), or contain numbers that break later
computations (400 digits, `1e999`, NaN). All such files are read in this module, so that each bound is in one place. A
40 kB Parquet file can repeat one list four million times; its footer says so before anything is decoded.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Self

import yaml

from mmpoison.base.files import refuse_special
from mmpoison.errors import InputError

MAX_JSON_BYTES = 64 << 20
"""Exceeds every config, manifest, tokenizer and table of results. Lists of pairs are read line by line instead."""
MAX_LINE_BYTES = 4 << 20
"""Limit for one line of JSON lines: an image with all its captions and columns."""
MAX_UNPACKED, UNPACKED_PER_BYTE = 256 << 20, 20
"""Limits on memory for a file's packed numbers: in total, and per byte of the file."""
MAX_DEPTH = 64
"""Maximum nesting depth: later code recurses over values, and Python allows about a thousand nested calls."""
MAX_INTEGER = 2**63
"""Integers below this fit into 64 bits, also in NumPy and Arrow."""


# -- text ------------------------------------------------------------------------------------------


def read_bytes(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """Read a whole file of bounded size.

    Raises:
        InputError: If the file is missing, not regular, unreadable, or larger than `limit` bytes.
    """
    with open_bytes(path) as stream:
        try:
            content = stream.read(limit + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({_reason(error)})") from None
    if len(content) > limit:
        raise InputError(f"{path}: larger than the limit of {_size(limit)}")
    return content


def read_text(path: Path, limit: int = MAX_JSON_BYTES) -> str:
    """Read a whole UTF-8 file of bounded size, without its byte order mark.

    Raises:
        InputError: As `read_bytes`, or if the file is not UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8") from None


def plain_file(folder: Path, name: str) -> Path:
    """Return the path of a file in an untrusted folder; refuse links that lead out of the folder.

    A link could make a file of this machine part of the folder, and a copy of the folder would then include that file.
    The Hugging Face cache consists of links within its own repository, which are followed.

    Args:
        folder: The folder.
        name: A file in it.

    Raises:
        InputError: If the name or a link points outside the folder.
    """
    path = folder / name
    home = folder.absolute()
    hub = ("models--", "datasets--")
    repository = next((p for p in (home, *home.parents) if p.name.startswith(hub)), home)
    try:
        target = path.resolve()
        loops = target.is_symlink()  # Python 3.13 raises nothing then
    except (OSError, RuntimeError):
        loops = True
    if loops:
        raise InputError(f"{path}: a broken link")
    if not (target.is_relative_to(home.resolve()) or target.is_relative_to(repository.resolve())):
        raise InputError(f"{path}: points outside its folder: copy the file into the folder")
    return path


def most_unpacked(size: int) -> int:
    """Return the largest unpacked size, in bytes, for a packed file or archive member of `size` bytes."""
    return MAX_UNPACKED + UNPACKED_PER_BYTE * size


def open_bytes(path: Path) -> BufferedReader:
    """Open a regular file for reading line by line, with the checks of `read_bytes`.

    Raises:
        InputError: If the file is missing, not regular, or cannot be opened.
    """
    refuse_special(path)
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)})") from None


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits.

    Raises:
        InputError: As `open_bytes`.
    """
    with open_bytes(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_lines(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their line ends, without the byte order mark.

    Raises:
        InputError: If the file is missing, not regular, unreadable, not UTF-8, or has a line longer than `limit` bytes.
    """
    with open_bytes(path) as stream:
        try:
            for number, raw in enumerate(bounded_lines(stream, path, limit), start=1):
                yield decode_line(raw, f"{path} line {number}", first=number == 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({_reason(error)})") from None


def decode_line(raw: bytes, where: str, *, first: bool = False) -> str:
    """Decode one line, without the byte order mark of a first line.

    Raises:
        InputError: If the line is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8") from None


def bounded_lines(
    stream: BinaryIO, where: str | Path, limit: int = MAX_LINE_BYTES
) -> Iterator[bytes]:
    """Yield the lines of a binary stream with their line ends.

    Raises:
        InputError: If a line is longer than `limit` bytes; reading stops there.
    """
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise InputError(f"{where} line {number}: longer than the limit of {_size(limit)}")
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
        InputError: If the text is not JSON, nests deeper than `MAX_DEPTH`, or contains a number that is not finite.

    Example:
        >>> parse_json('{"rank": 3}', "metrics.json")
        {'rank': 3}
    """
    try:
        value = _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8"))
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


# created once: creating one per line would take as long as parsing
_DECODER = json.JSONDecoder(
    parse_int=_integer, parse_float=_number, parse_constant=_refuse_constant
)


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


# -- Reads whole untrusted CSV files, such as lists of labels. `datasets.formats.delimited` reads tables of pairs.


MAX_CSV_BYTES = 256 << 20
"""Enough for five million lines with an image's path and label."""


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse a table with two columns of the same name, because one would be lost. Empty names are allowed.

    Raises:
        InputError: If a name occurs twice, with or without spaces around it.
    """
    counts = Counter(name.strip() for name in names)
    for name, count in counts.items():
        if count > 1 and name:
            raise InputError(
                f"{where}: {count} columns are called {name!r:.80}: give them different names"
            )


class BoundedRows(Iterator[dict[str, str]]):
    """The rows of a CSV file, as from `csv.DictReader` in strict mode.

    Args:
        path: A comma-separated UTF-8 file whose first record names the columns.

    Attributes:
        line: Number of the last line read.
        columns: Names of the columns, stripped of white space.

    Raises:
        InputError: If the file is missing, not regular, too large, not UTF-8, not CSV, or has two columns of the same
            name. Raised here or during reading.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # line ends of every system, including old Macs
        text = io.StringIO(read_text(path, MAX_CSV_BYTES), newline="")
        self._rows = csv.DictReader(text, strict=True)
        try:
            self.columns = [(name or "").strip() for name in self._rows.fieldnames or ()]
        except csv.Error as error:
            raise self._broken(error) from None
        check_names(self.columns, f"{path} line 1")
        self._rows.fieldnames = self.columns

    @property
    def line(self) -> int:
        """Number of the last line read."""
        return self._rows.reader.line_num

    def __next__(self) -> dict[str, str]:
        try:
            return next(self._rows)
        except csv.Error as error:
            raise self._broken(error) from None

    def _broken(self, error: csv.Error) -> InputError:
        return InputError(f"{self._path} line {self.line}: broken CSV ({error})")


# -- Reads untrusted YAML: plain values only, and bounds are checked before values are built.


MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 100_000
"""Maximum number of values in a file with every alias expanded: nine lines of aliases can expand to a billion."""


def read_yaml(path: Path, limit: int = MAX_YAML_BYTES) -> Any:
    """Read a YAML file.

    Raises:
        InputError: As `read_text` and `parse_yaml`.
    """
    return parse_yaml(read_text(path, limit), path)


def parse_yaml(text: str, where: str | Path) -> Any:
    """Parse YAML of plain values: null, booleans, finite numbers of 64 bits, text, lists, mappings.

    Dates stay text. Aliases are allowed if the file stays small with every alias expanded.

    Args:
        text: One YAML document.
        where: Its name in messages.

    Raises:
        InputError: If the text is not YAML, uses other tags, nests deeper than `MAX_DEPTH`, contains itself, or has
            more than `MAX_YAML_NODES` values.

    Example:
        >>> parse_yaml("seed: 3\\ndescription: 2001-99-99", "a recipe")
        {'seed': 3, 'description': '2001-99-99'}
    """
    try:
        loader = _PlainLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            value = loader.construct_document(node)
            if _deeper_than(value, MAX_DEPTH):
                raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH}")
            return value
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        said = f"{error.problem or error.context}{line}"
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
    except RecursionError:
        said = "nested too deep"
    except (ValueError, LookupError, TypeError, OverflowError, AttributeError) as error:
        said = f"a value that is not of its type: {str(error)[:200]}"
    raise InputError(f"{where}: not valid YAML ({said})")


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader without dates, sets, pairs and binaries."""

    def construct_scalar(self, node: Any) -> str:
        text: str = super().construct_scalar(node)
        text.encode()  # half a surrogate pair is not valid text and could not be written
        return text

    def construct_yaml_int(self, node: Any) -> int:
        # Python takes quadratic time for many digits
        large = len(node.value) > 100
        value: int = MAX_INTEGER if large else super().construct_yaml_int(node)
        if not -MAX_INTEGER <= value < MAX_INTEGER:
            raise ValueError(f"the integer {node.value[:20]}... needs more than 64 bits")
        return value

    def construct_yaml_float(self, node: Any) -> float:
        value: float = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise ValueError(f"the number {node.value[:20]} is not finite")
        return value


_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
_PlainLoader.yaml_constructors = {
    f"tag:yaml.org,2002:{kind}": getattr(_PlainLoader, f"construct_yaml_{kind}") for kind in _PLAIN
} | {None: yaml.SafeLoader.construct_undefined}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that contains itself or is too large with every alias expanded."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise yaml.YAMLError("an alias inside the value that it names")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = node.value
            sizes[id(node)] = 1 + sum(map(size, children))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if size(root) > MAX_YAML_NODES:
        raise yaml.YAMLError(f"more than {MAX_YAML_NODES:,} values with aliases expanded")


_EXPONENT = re.compile(r"-?\d+(\.\d+)?[eE][-+]?\d+")


def parse_changes(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse `training.epochs=2` into a dotted key and a YAML value.

    >>> parse_changes(["training.epochs=2", "attack.mode=replace"])
    {'training.epochs': 2, 'attack.mode': 'replace'}
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key:
            raise InputError(f"--set {assignment!r}: write KEY=VALUE, e.g. training.epochs=2")
        changes.pop(key, None)  # a repeated key also moves to its last position
        changes[key] = _value_of(value, f"--set {assignment!r:.200}")
    return changes


def _value_of(text: str, where: str) -> Any:
    # YAML 1.1 reads 1e-3 as text
    if _EXPONENT.fullmatch(text.strip()):
        return parse_json(text.strip(), where)
    try:
        return parse_yaml(text, where)
    except InputError:
        raise InputError(
            f"{where}: the value is not valid YAML: give a number, text, true, false, null or [a, b]"
        ) from None


# -- Reports which parts of untrusted data were left out.


class LeftOut(str):
    """A message line about rows left out of a table, and why.

    Attributes:
        rows: Number of rows, or of captions of a row, left out; 0 for a remark. A plain `str` counts as one row.
        broken: Whether a file could not be read to its end.
    """

    rows: int
    broken: bool

    def __new__(cls, line: str, rows: int = 1, *, broken: bool = False) -> Self:
        """Make the line."""
        made = super().__new__(cls, line)
        made.rows, made.broken = rows, broken
        return made

    @classmethod
    def of(cls, line: str) -> LeftOut:
        """Return the line itself; convert a plain text to a line about one row."""
        return line if isinstance(line, LeftOut) else LeftOut(line)


def broken_file(line: str) -> LeftOut:
    """Return the line for a file that cannot be read to its end. The number of missing rows is unknown."""
    return LeftOut(line, 0, broken=True)


MAX_GROUP_BYTES = 4 << 30
"""Largest row group. Row groups are read whole, so they must fit into memory."""

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}
_PLACE = 4
"""Bytes per text or byte string, which are read as an index into a dictionary (`text_leaves`)."""


def refuse_packed(
    metadata: Any,
    size: int,
    where: object,
    *,
    columns: Sequence[str] | None = None,
    groups: Iterable[int] | None = None,
) -> None:
    """Before decoding, refuse row groups that need much more memory than the file has bytes on disk.

    Args:
        metadata: Footer of the file, a `pyarrow.parquet.FileMetaData`.
        size: Bytes of the file.
        where: Its name, for messages.
        columns: Those that are read; all by default.
        groups: The row groups that are in memory at the same time; all by default.

    Raises:
        InputError: If a row group exceeds `MAX_GROUP_BYTES`, or the data to read unpack to more than `most_unpacked` of
            the file size.
    """
    read = [
        (number, _WIDTHS.get(leaf.physical_type, max(_PLACE, leaf.length)))
        for number, leaf in _leaves(metadata.schema, columns)
    ]
    total = 0
    for group in range(metadata.num_row_groups) if groups is None else groups:
        rows = metadata.row_group(group)
        if rows.total_byte_size > MAX_GROUP_BYTES:
            raise InputError(
                f"{where}: row group {group} holds {rows.total_byte_size / 2**30:.1f} GiB, too much to read at once: "
                "rewrite it with smaller row groups"
            )
        total += sum(rows.column(number).num_values * width for number, width in read)
        if total > most_unpacked(size):
            raise InputError(
                f"{where}: {size:,} bytes unpack to {total / 2**30:.1f} GiB or more (a decompression bomb?): rewrite "
                "it without the columns that repeat one value, or with smaller row groups"
            )


def text_leaves(file: Any, columns: Sequence[str]) -> list[str]:
    """List the paths of the leaves of Parquet columns that hold bytes or text.

    They are read as dictionaries, so a repeated value is in memory once. Expanded, a 5 kB file with one long value
    repeated a thousand times could take 64 GB.

    Args:
        file: A `pyarrow.parquet.ParquetFile`.
        columns: Names of columns.
    """
    leaves = _leaves(file.schema, columns)
    return [leaf.path for _, leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def _leaves(schema: Any, columns: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
    """Yield index and description of each leaf, for all or some columns."""
    wanted = None if columns is None else set(columns)
    for number in range(len(schema)):
        leaf = schema.column(number)
        # a leaf's path begins with that of its column
        if wanted is None or not wanted.isdisjoint(
            accumulate(leaf.path.split("."), "{}.{}".format)
        ):
            yield number, leaf
