"""Changes examples at random: bytes of any file, and the structure of JSON, YAML, CSV, tar, PNG and safetensors."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from tests.fuzz import tokens
from tests.fuzz.target import Case, Target

Keys = Mapping[str, Sequence[Any]]

MAX_BYTES = 1 << 20
"""An input is kept below it, so that a slow loader is slow by what it does and not by what it is given."""


def mutate(raw: bytes, kind: str, keys: Keys, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Change one place of a file.

    Args:
        raw: Its bytes.
        kind: Its format, of `_STRUCTURE`; anything else is changed byte by byte alone.
        keys: Keys that this format knows, each with values worth trying.
        others: The same file of other inputs, to splice with.
        rng: The only source of chance.

    Returns:
        At most `MAX_BYTES`.
    """
    structural = _STRUCTURE.get(kind)
    if structural is not None and rng.random() < _SHARES.get(kind, 0.7):
        try:
            return structural(raw, keys, rng)[:MAX_BYTES]
        except _NOT_STRUCTURED:
            pass
    return _bytes(raw, others, rng)[:MAX_BYTES]


def changed_cases(target: Target, examples: Sequence[Case]) -> st.SearchStrategy[Case]:
    """A strategy: an example with some changes, each of a seed, so that hypothesis can leave out what is not needed."""

    def changed(seeds: Sequence[int]) -> Case:
        case = dict(random.Random(seeds[0]).choice(examples))
        for seed in seeds:
            rng = random.Random(seed)
            name = rng.choice(list(target.files))
            others = [rng.choice(examples)[name] for _ in range(2)]
            case[name] = mutate(case[name], target.files[name], target.keys, others, rng)
        return case

    return st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8).map(changed)


_SHARES = {"parquet": 0.3, "arrow": 0.3}
"""How often the structure is changed; lower where that makes a new file, so that the examples are changed too."""

# what reading a broken file of its format may raise; it is then changed byte by byte
_NOT_STRUCTURED = (
    *(ValueError, LookupError, RecursionError, EOFError, OSError),
    *(struct.error, tarfile.TarError, zlib.error, OverflowError, TypeError, AttributeError),
    NotImplementedError,
)


# -- bytes -----------------------------------------------------------------------------------------


def _bytes(raw: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    data = bytearray(raw)
    at = rng.randrange(len(data) + 1)
    # headers and footers decide more than what is between them
    if rng.random() < 0.3:
        at = min(len(data), rng.choice((at % 64, len(data) - min(len(data), at % 512))))
    length = rng.choice((1, 1, 2, 4, 8, 16, 64, 300))
    action = rng.randrange(10)
    if action == 0 and data:
        for _ in range(rng.choice((1, 1, 4, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif action == 1:
        del data[at:]
    elif action == 2:
        del data[at : at + length]
    elif action == 3:
        data[at:at] = data[at : at + length] * rng.choice((1, 2, 50))
    elif action == 4:
        data[at:at] = rng.randbytes(length)
    elif action == 5:
        data[at : at + length] = rng.choice((b"\x00", b"\xff", b"A")) * length
    elif action == 6:
        data[at:at] = _token(rng)
    elif action == 7 and others:
        other = rng.choice(others)
        cut = rng.randrange(len(other) + 1)
        data[at:] = other[cut:] if rng.random() < 0.7 else other[cut : cut + length] + data[at:]
    elif action == 8 and data:
        size = rng.choice((1, 2, 4, 8))
        number = rng.choice(tokens.INTERESTING) % (1 << 8 * size)
        data[at : at + size] = number.to_bytes(size, "little" if rng.random() < 0.5 else "big")
    else:
        start = rng.randrange(len(data) + 1)
        piece = data[start : start + length]
        data[at : at + len(piece)] = piece
    return bytes(data)


def _token(rng: random.Random) -> bytes:
    text = rng.choice(rng.choice((tokens.TEXTS, tokens.RAW_JSON)))
    return text.encode("utf-8", "surrogatepass")


# -- JSON ------------------------------------------------------------------------------------------


def _json(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    value = json.loads(raw.decode("utf-8"))
    holes: list[str] = []
    value = _change(value, keys, holes, rng)
    text = json.dumps(value)
    for number, hole in enumerate(holes):
        text = text.replace(f'"@hole{number}@"', hole)
    return text.encode("utf-8", "surrogatepass")


def _json_lines(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    action = rng.randrange(6)
    if action == 0:
        lines.insert(at, rng.choice(lines))
    elif action == 1:
        del lines[at]
    elif action == 2:
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = _json(lines[at], keys, rng)
    return b"\n".join(lines)


def _change(value: Any, keys: Keys, holes: list[str], rng: random.Random) -> Any:
    """The value with one place in it changed."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []
    _walk(value, places)
    if not places or rng.random() < 0.02:
        return _strange(keys, holes, rng)
    holder, place = rng.choice(places)
    action = rng.randrange(10)
    if action == 0:
        del holder[place]
    elif action == 1 and isinstance(holder, list):
        most = 3 if isinstance(holder[place], (dict, list)) else 200
        # the copies are one object, which the text spells out
        holder.extend(holder[place : place + 1] * rng.choice((1, most)))
    elif action == 2:
        other, key = rng.choice(places)
        holder[place] = copy.deepcopy(other[key]) if key in _there(other) else None
    elif action == 3:
        holder[place] = [holder[place]] if rng.random() < 0.5 else {"a": holder[place]}
    elif action == 4 and isinstance(holder, dict):
        holder[rng.choice((rng.choice(tokens.TEXTS), *keys))] = holder.pop(place)
    elif action in (5, 6) and keys and isinstance(holder, dict):
        key = rng.choice(list(keys))
        holder[key] = copy.deepcopy(rng.choice(keys[key]))
    elif action == 7 and isinstance(holder, dict) and place in keys:
        holder[place] = copy.deepcopy(rng.choice(keys[place]))
    elif action == 8 and isinstance(holder[place], (int, float)):
        number = rng.choice(tokens.INTERESTING)
        holder[place] = rng.choice((number, -number, float(number), str(holder[place])))
    else:
        holder[place] = _strange(keys, holes, rng)
    return value


def _there(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _walk(value: Any, places: list[tuple[Any, Any]]) -> None:
    if isinstance(value, dict):
        items: Any = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return
    for key, child in items:
        places.append((value, key))
        _walk(child, places)


def _strange(keys: Keys, holes: list[str], rng: random.Random) -> Any:
    kind = rng.randrange(3)
    if kind == 0:
        holes.append(rng.choice(tokens.RAW_JSON))
        return f"@hole{len(holes) - 1}@"
    if kind == 1:
        return rng.choice(tokens.TEXTS)
    return copy.deepcopy(rng.choice(tokens.VALUES))


# -- YAML ------------------------------------------------------------------------------------------


def _yaml(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    """Line by line; a JSON value is YAML too, so its oddities are put in as values."""
    lines = raw.decode("utf-8").split("\n")
    at = rng.randrange(len(lines))
    action = rng.randrange(8)
    if action == 0:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif action == 1:
        del lines[at]
    elif action == 2:
        lines[at] = " " * rng.choice((1, 2, 8)) + lines[at].lstrip()
    elif action in (3, 4):
        lines.insert(rng.choice((0, at, len(lines))), rng.choice(tokens.YAML_LINES))
    elif action == 5 and rng.random() < 0.1:
        lines.insert(0, tokens.ALIAS_BOMB)
    else:
        head, colon, _ = lines[at].partition(":")
        holes: list[str] = []
        value = _strange(keys, holes, rng)
        text = holes[0] if holes else json.dumps(value)
        if head.strip() in keys and rng.random() < 0.5:
            text = json.dumps(rng.choice(keys[head.strip()]))
        lines[at] = f"{head}{colon or ':'} {text}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


# -- CSV -------------------------------------------------------------------------------------------


def _csv(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    lines = raw.split(b"\n")
    separator = b"\t" if b"\t" in lines[0] else b","
    at = rng.randrange(len(lines)) if rng.random() < 0.8 else 0
    cells = lines[at].split(separator)
    cell = rng.randrange(len(cells))
    action = rng.randrange(9)
    if action == 0:
        lines.insert(at, rng.choice(lines))
    elif action == 1:
        del lines[at]
    elif action == 2:
        del cells[cell]
    elif action == 3:
        cells.insert(cell, rng.choice(cells))
    elif action == 4:
        cells[cell] = b'"' + cells[cell][:20] * rng.choice((1, 1, 20_000))
    elif action == 5:
        cells[cell] = b'"' + cells[cell] + b'\n,""' + b'"'
    elif action == 6 and keys:
        key = rng.choice(list(keys))
        cells[cell] = rng.choice((key, str(rng.choice(keys[key])))).encode("utf-8", "surrogatepass")
    else:
        cells[cell] = _token(rng)
    if action > 1:
        lines[at] = separator.join(cells)
    return b"\n".join(lines)


# -- gzip ------------------------------------------------------------------------------------------

_ZEROS = gzip.compress(bytes(1 << 20), mtime=0)


def _gzip_of(inner: Callable[[bytes, Keys, random.Random], bytes]) -> Any:
    def change(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
        if rng.random() < 0.02:
            # members one after the other are one file: 700 MB
            return raw + _ZEROS * 700
        # of a bomb the first member
        unpacked = zlib.decompressobj(wbits=31).decompress(raw, MAX_BYTES)
        return gzip.compress(inner(unpacked, keys, rng), mtime=0, compresslevel=1)

    return change


def _merges(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    """A table of merges: lines of two symbols."""
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    action = rng.randrange(5)
    if action == 0:
        del lines[at : at + rng.choice((1, 1, 100))]
    elif action == 1:
        lines.insert(at, rng.choice(lines))
    elif action == 2:
        lines[at] = lines[at].replace(b" ", rng.choice((b"", b"  ", b"\t", b" x ")))
    else:
        lines[at] = _token(rng)
    return b"\n".join(lines)


# -- tar -------------------------------------------------------------------------------------------

_TAR_FIELDS = (
    *((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100)),
    *((257, 6), (263, 2), (329, 8), (345, 155)),
)
"""Start and length of the fields of a header."""


def _tar(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    """One field of one header, with the checksum of what it says then; or a member of its own."""
    data = bytearray(raw)
    heads = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    action = rng.randrange(5)
    if action == 0:
        block = bytes(data[at : at + 512 * rng.choice((1, 2, 3))])
        data[rng.choice(heads) : 0] = b""
        data[at:at] = block
        return bytes(data)
    if action == 1:
        return bytes(data[:at]) + _tar_member(rng) + bytes(data[at:])
    start, size = rng.choice(_TAR_FIELDS)
    if start in (124, 136) and rng.random() < 0.7:
        number = rng.choice((*tokens.INTERESTING, -1, -512))
        octal = f"{abs(number):o}"[-11:].rjust(11, "0").encode() + b"\x00"
        # beyond octal: the high bit says a binary number
        binary = (number % (1 << 88)).to_bytes(11, "big")
        field = rng.choice((octal, b"\x80" + binary, b"\xff" + binary, b"-0000000001 "))
    elif start == 156:
        field = rng.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"x", b"g", b"S"))
    else:
        field = _token(rng) if rng.random() < 0.7 else rng.randbytes(size)
    data[at + start : at + start + size] = field[:size].ljust(size, b"\x00")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\x00 " % sum(data[at : at + 512])
    return bytes(data)


def _tar_member(rng: random.Random) -> bytes:
    member = tarfile.TarInfo(
        rng.choice(("1.txt", "1.json", "../1.txt", "9.jpg", "/9.txt", "9.cls"))
    )
    member.type = rng.choice((tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE))
    member.linkname = f"../{tokens.CANARY_FOLDER}/secret.png"
    content = _token(rng)
    member.size = len(content) if member.type == tarfile.REGTYPE else 0
    if rng.random() < 0.3:
        member.pax_headers = {
            "path": rng.choice(("../x", "a\x00b")),
            "size": rng.choice(("-1", "x")),
        }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue().rstrip(b"\x00").ljust(-(-len(stream.getvalue()) // 512) * 512, b"\x00")


# -- pictures --------------------------------------------------------------------------------------


def _picture(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    """Sizes in the headers of the formats; a PNG's checksums are made right again."""
    if raw.startswith(b"\x89PNG"):
        return _png(raw, rng)
    data = bytearray(raw)
    side = rng.choice((0, 1, 65535, 10_000, 30_000, 9_999))
    if raw.startswith(b"GIF8"):
        at = rng.choice((6, 8, max(data.find(b"\x2c"), 0) + rng.choice((1, 3, 5, 7))))
        data[at : at + 2] = side.to_bytes(2, "little")
    elif raw.startswith(b"BM"):
        at = rng.choice((2, 10, 14, 18, 22, 26, 28, 30, 34, 46))
        data[at : at + 4] = rng.choice((side, 99_000_000, 2**32 - 1, 2**31)).to_bytes(4, "little")
    elif raw.startswith(b"\xff\xd8"):
        frames = [n for n in range(len(data) - 1) if data[n] == 0xFF and data[n + 1] in _JPEG_MARKS]
        at = rng.choice(frames)
        action = rng.randrange(3)
        if action == 0:
            data[at + 5 : at + 9] = side.to_bytes(2, "big") * 2
        elif action == 1:
            data[at + 2 : at + 4] = side.to_bytes(2, "big")
        else:
            data[at + 1] = rng.choice(_JPEG_MARKS)
    elif raw[:4] == b"RIFF":
        at = rng.choice((4, 16, 20, 23, 26, 28, 30))
        data[at : at + 3] = rng.choice((side, 2**24 - 1)).to_bytes(3, "little")
    elif raw[:1] == b"P":
        parts = raw.split(b"\n", 3)
        at = rng.randrange(len(parts))
        parts[at] = b" ".join(str(rng.choice(tokens.INTERESTING)).encode() for _ in range(2))
        return b"\n".join(parts)
    else:
        raise ValueError("no format that is known here")
    return bytes(data)


_JPEG_MARKS = (0xC0, 0xC2, 0xC3, 0xC4, 0xC9, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE)
_TEXT, _TEXT_BOMB = zlib.compress(bytes(1000), 1), zlib.compress(bytes(70_000_000), 1)
_PNG_EXTRAS = (b"tRNS", b"PLTE", b"acTL", b"fcTL", b"gAMA", b"pHYs", b"tIME", b"eXIf", b"IDAT")


def _png(raw: bytes, rng: random.Random) -> bytes:
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 8 <= len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        chunks.append((raw[at + 4 : at + 8], raw[at + 8 : at + 8 + size]))
        at += 12 + size
    number = rng.randrange(len(chunks))
    kind, body = chunks[number]
    action = rng.randrange(6)
    if action == 0 and chunks[0][0] == b"IHDR":
        width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1][:13])
        sides = (width, height, 1, 99_000_000, 65_535, 10_000, 9_999, 2**31 - 1)
        rest[rng.randrange(5)] = rng.choice((*rest, 0, 1, 2, 3, 4, 6, 8, 16))
        head = struct.pack(">IIBBBBB", rng.choice(sides), rng.choice(sides), *rest)
        chunks[0] = (b"IHDR", head)
    elif action == 1:
        chunks.insert(number, (kind, body))
    elif action == 2:
        del chunks[number]
    elif action == 3:
        text = rng.choice((_TEXT, _TEXT, _TEXT_BOMB))
        extra = rng.choice(
            (
                (b"zTXt", b"Comment\x00\x00" + text),
                (b"iCCP", b"icc\x00\x00" + text),
                (b"iTXt", b"Comment\x00\x01\x00\x00\x00" + text),
                (b"tEXt", b"Comment\x00" + b"x" * 1000),
            )
        )
        chunks.insert(1, extra)
    elif action == 4:
        chunks.insert(number, (rng.choice(_PNG_EXTRAS), rng.randbytes(rng.choice((0, 4, 26)))))
    else:
        chunks[number] = (kind, _bytes(body, (), rng))
    return raw[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


# -- safetensors -----------------------------------------------------------------------------------


def _safetensors(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    size = int.from_bytes(raw[:8], "little")
    header, data = raw[8 : 8 + size], raw[8 + size :]
    action = rng.randrange(6)
    if action == 0:
        number = rng.choice((*tokens.INTERESTING, size - 1, size + 1, size + 8))
        return number.to_bytes(9, "little")[:8] + header + data
    value = json.loads(header)
    inside = value.get("__metadata__", {}).get("mmpoison")
    if inside is not None and action < 4:
        # our config is JSON in a text of the header
        changed = _json(inside.encode(), keys, rng).decode("utf-8", "replace")
        if rng.random() < 0.1:
            changed = rng.choice(tokens.RAW_JSON)
        value["__metadata__"]["mmpoison"] = changed
        header = json.dumps(value).encode()
    else:
        header = _json(header, keys, rng)
    return len(header).to_bytes(8, "little") + header + data


# -- Parquet and Arrow -----------------------------------------------------------------------------

_COLUMNS = ("image", "caption", "captions", "label", "split", "categories", "text", "url", "jpg")


def _table(rng: random.Random) -> Any:
    """A table of usual names and unusual types; made from nothing, since a broken file is not to be read here."""
    import pyarrow as pa

    rows = rng.choice((0, 1, 3, 8))
    names = rng.sample(_COLUMNS, rng.randint(1, 5))
    if rng.random() < 0.2:
        names.append(rng.choice((names[0], rng.choice(tokens.TEXTS))))
    arrays = []
    for name in names:
        usual = {"image": 4, "split": 0, "label": 1}.get(name, 0)
        kind = usual if rng.random() < 0.6 else rng.randrange(9)
        arrays.append(_column(kind, rows, rng))
    fields = [
        pa.field(name.encode("utf-8", "replace"), array.type)
        for name, array in zip(names, arrays, strict=True)
    ]
    metadata = None
    if rng.random() < 0.3:
        features = {
            "info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}
        }
        metadata = {"huggingface": _json(json.dumps(features).encode(), {}, rng)}
    return pa.table(arrays, schema=pa.schema(fields, metadata))


def _column(kind: int, rows: int, rng: random.Random) -> Any:
    import pyarrow as pa

    def text() -> str | None:
        usual = ("train", "test", "cat", "a.png", "a cat on a hill")
        value = rng.choice(tokens.TEXTS if rng.random() < 0.3 else (*usual, None))
        return value if value is None else value.encode("utf-8", "replace").decode()

    def several(make: Callable[[], Any]) -> list[Any]:
        return [make() for _ in range(rows)]

    if kind == 0:
        return pa.array(several(text), rng.choice((pa.string(), pa.large_string())))
    if kind == 1:
        return pa.array(several(text), pa.string()).dictionary_encode()
    if kind == 2:
        return pa.array(several(lambda: [text()] * rng.randrange(3)), pa.list_(pa.string()))
    if kind == 3:
        return pa.array(several(lambda: rng.randbytes(9)), rng.choice((pa.binary(), pa.binary(9))))
    if kind == 4:
        inner = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        return pa.array(several(lambda: {"bytes": rng.randbytes(9), "path": text()}), inner)
    if kind == 5:
        return pa.array(several(lambda: rng.choice((0, 1, -1, 2**62))), pa.int64())
    if kind == 6:
        return pa.array(several(lambda: rng.choice((0.5, float("nan"), float("inf")))))
    if kind == 7:
        return pa.nulls(rows)
    return pa.array(several(lambda: rng.choice((0, -(2**62), 2**62))), pa.timestamp("s"))


def _parquet(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    options = {
        "row_group_size": rng.choice((1, 3, 100)),
        "compression": rng.choice(("none", "zstd")),
    }
    pq.write_table(_table(rng), stream, use_dictionary=rng.random() < 0.5, **options)
    return stream.getvalue()


def _arrow(raw: bytes, keys: Keys, rng: random.Random) -> bytes:
    import pyarrow as pa

    table = _table(rng)
    stream = io.BytesIO()
    new = pa.ipc.new_stream if rng.random() < 0.7 else pa.ipc.new_file
    with new(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=rng.choice((1, 100)))
    return stream.getvalue()


_STRUCTURE: dict[str, Callable[[bytes, Keys, random.Random], bytes]] = {
    "json": _json,
    "jsonl": _json_lines,
    "yaml": _yaml,
    "csv": _csv,
    "csv.gz": _gzip_of(_csv),
    "merges.gz": _gzip_of(_merges),
    "parquet": _parquet,
    "arrow": _arrow,
    "tar": _tar,
    "picture": _picture,
    "safetensors": _safetensors,
}
