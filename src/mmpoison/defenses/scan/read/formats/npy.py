"""Embeddings in NumPy files: a pair of arrays, and the folders of clip-retrieval and DataComp.

The files are untrusted: nothing is unpickled, only two-dimensional floating-point arrays are accepted, and a header
that claims more data than the file contains is refused before memory is allocated.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

import numpy as np

from mmpoison.base.text import count_of, one_line
from mmpoison.base.untrusted import most_unpacked
from mmpoison.defenses.scan.read.files import Array, DataFile, Listing, ShardError, each, list_place
from mmpoison.defenses.scan.read.shards import (
    EmbeddedFormat,
    EmbeddedSource,
    Shard,
    make_source,
    register,
)
from mmpoison.defenses.scan.read.tables import ColumnChoice, ParquetRows, choose_columns
from mmpoison.errors import InputError

MOST_BYTES = 16 << 30
"""Largest array that cannot be memory-mapped (in a store, or compressed); larger ones are refused."""

MOST_ROWS = 1 << 40
"""Maximum number of rows: a header can claim any number, and an error message would repeat all its digits."""

HEADER_BYTES = 12_000
"""The header of a plain array takes 128 bytes; NumPy refuses more than 10,000."""

_MAPPED = (np.dtype("<f2"), np.dtype("<f4"))
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


@dataclass(frozen=True)
class Header:
    """The header of an array.

    Attributes:
        rows: Number of embeddings.
        columns: Numbers per embedding.
        dtype: Type of the numbers.
        fortran: Whether columns are contiguous instead of rows.
        start: Offset of the numbers in the `.npy` data.
    """

    rows: int
    columns: int
    dtype: np.dtype[np.floating]
    fortran: bool
    start: int

    @property
    def bytes(self) -> int:
        """Size of all numbers in bytes."""
        return self.rows * self.columns * self.dtype.itemsize


@dataclass(frozen=True)
class ArrayFile:
    """A matrix in a file.

    Attributes:
        file: A `.npy` file, or the `.npz` file that contains it.
        member: Name of the array in the `.npz` file; empty for a `.npy` file.
    """

    file: DataFile
    member: str = ""

    def __str__(self) -> str:
        return f"{self.file} array {one_line(self.member)!r}" if self.member else str(self.file)

    def header(self) -> Header:
        """Read the header, without the numbers.

        Raises:
            ShardError: If the file cannot be read, is truncated, or is not a floating-point matrix.
        """
        with self._opened() as (stream, length, _):
            return self._header(stream, length)

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Read rows.

        Args:
            start: First row.
            stop: End row, exclusive; all rows by default.

        Returns:
            Shape `(stop - start, d)`, float16 or float32 (other types become float32), read-only. Memory-mapped if the
            file is local and not compressed.

        Raises:
            ShardError: As `header`.
        """
        with self._opened() as (stream, length, offset):
            header = self._header(stream, length)
            kind, shape = header.dtype, (header.rows, header.columns)
            stop = header.rows if stop is None else min(stop, header.rows)
            if stop <= start:
                found: Array = np.empty((0, header.columns), kind)
            elif offset is not None and (path := self.file.local) is not None:
                offset += header.start
                order: Literal["F", "C"] = "F" if header.fortran else "C"
                found = np.memmap(path, kind, "r", offset, shape, order)[start:stop]
            else:
                found = self._read_rows(stream, header, start, stop)
        native = kind if kind in _MAPPED else np.dtype("<f4")
        # numbers beyond float32 become infinite, and count as not finite
        with np.errstate(over="ignore"):
            return found.astype(native, copy=False)

    def _read_rows(self, stream: BinaryIO, header: Header, start: int, stop: int) -> Array:
        """Read rows of an array that cannot be memory-mapped."""
        first, last = (0, header.rows) if header.fortran else (start, stop)
        row = header.columns * header.dtype.itemsize
        size = (last - first) * row
        if size > MOST_BYTES:
            raise ShardError(
                f"{self}: {size / 2**30:.1f} GiB do not fit into memory: use smaller shards, or copy it to this "
                "machine uncompressed, to be memory-mapped"
            )
        stream.seek(header.start + first * row)
        raw = stream.read(size)
        if len(raw) < size:
            raise ShardError(f"{self}: cut short, missing {count_of(size - len(raw), 'byte')}")
        order: Literal["F", "C"] = "F" if header.fortran else "C"
        numbers = np.frombuffer(raw, header.dtype).reshape(-1, header.columns, order=order)
        return numbers[start - first : stop - first]

    def _header(self, stream: BinaryIO, length: int) -> Header:
        shape, fortran, dtype, start = read_header(stream, str(self))
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise ShardError(
                f"{self}: holds {one_line(str(dtype))[:40]}: expected float16 or float32 numbers"
            )
        if len(shape) != 2 or not (0 <= shape[0] <= MOST_ROWS and 1 <= shape[1] <= MOST_ROWS):
            raise ShardError(f"{self}: has shape {shape!s:.60}, expected (pairs, numbers)")
        header = Header(shape[0], shape[1], dtype, fortran, start)
        if (missing := start + header.bytes - length) > 0:
            raise ShardError(f"{self}: cut short, missing {count_of(missing, 'byte')}")
        return header

    @contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, int, int | None]]:
        """Open the `.npy` data: a stream, its length, and its offset in the file if it is not compressed."""
        if not self.member:
            with self.file.reading(), self.file.open() as raw:
                yield raw, self.file.size(), 0
            return
        with open_archive(self.file) as archive:
            try:
                info = archive.getinfo(f"{self.member}.npy")
            except KeyError:
                names = [one_line(n.removesuffix(".npy")) for n in archive.namelist()[:12]]
                raise ShardError(
                    f"{self.file}: has no array {self.member!r}; it has {', '.join(names) or 'none'}"
                ) from None
            stored = info.compress_type == zipfile.ZIP_STORED
            if not stored and info.file_size > most_unpacked(info.compress_size):
                raise ShardError(
                    f"{self}: {info.compress_size:,} bytes unpack to {info.file_size / 2**30:.1f} GiB (a "
                    "decompression bomb?): save it again without compression (numpy.savez)"
                )
            with archive.open(info) as stream:
                # the local header repeats the lengths of name and extra field, and they may differ
                start = info.header_offset + 26
                lengths = struct.unpack("<HH", self.file.bytes_between(start, start + 4))
                offset = start + 4 + sum(lengths) if stored else None
                yield cast("BinaryIO", stream), info.file_size, offset


@contextmanager
def open_archive(file: DataFile) -> Iterator[zipfile.ZipFile]:
    """Open a `.npz` file.

    Raises:
        ShardError: If the file, or data read from it, is broken.
    """
    try:
        with file.reading(), file.open() as raw, zipfile.ZipFile(raw) as archive:
            yield archive
    except _ZIP_ERRORS as error:
        raise ShardError(f"{file}: broken .npz file ({one_line(str(error))[:160]})") from None


def read_header(stream: BinaryIO, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read the header of `.npy` data.

    Args:
        stream: A stream at the start of the data.
        where: For the error message.

    Returns:
        Shape, whether columns are contiguous, type of the numbers, and their offset.

    Raises:
        ShardError: If the data cannot be read.
    """
    raw = io.BytesIO(stream.read(HEADER_BYTES))
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(raw)](raw)
    except Exception:
        # a damaged header raises errors from ast, tokenize or numpy, or a MemoryError
        raise ShardError(f"{where}: is not a .npy array (its header cannot be read)") from None
    return tuple(map(int, shape)), bool(fortran), dtype, raw.tell()


# -- Shards with embeddings in arrays and a table in Parquet: clip-retrieval, DataComp, two `.npy` files.


@dataclass(frozen=True, kw_only=True)
class ArrayShard(Shard):
    """Rows of two arrays and of their table.

    Attributes:
        text: Embeddings of captions.
        image: Embeddings of images.
        stop: End row, exclusive; None for all.
    """

    text: ArrayFile
    image: ArrayFile
    stop: int | None = None

    def vectors(self) -> tuple[Array, Array]:
        """Return the embeddings, see `Shard.vectors`."""
        self.check()
        text = self.text.read(self.start, self.stop)
        return text, self.image.read(self.start, self.stop)

    def check(self) -> None:
        """Refuse files whose rows cannot correspond, because nothing in them can be joined."""
        text, image = self.text.header(), self.image.header()
        if text.rows != image.rows:
            raise ShardError(
                f"{self.image}: has {image.rows:,} rows, but {self.text} has {text.rows:,}: they do not match"
            )
        for array, header in ((self.text, text), (self.image, image)):
            if header.columns != (self.dimension or text.columns):
                raise ShardError(
                    f"{array}: has {header.columns:,} numbers per row, but the others have "
                    f"{self.dimension or text.columns:,}"
                )
        rows = (text.rows if self.stop is None else min(self.stop, text.rows)) - self.start
        if self.own is not None and (own := self.own.rows()) != rows:
            raise ShardError(
                f"{self.own.file}: has {own:,} rows, but {self.text} has {rows:,}: they do not match"
            )


def sizes_of(text: ArrayFile) -> tuple[int, int]:
    """Return an array's rows and dimension from its header, or zeros if it is unreadable."""
    try:
        header = text.header()
    except ShardError:
        return 0, 0
    return header.rows, header.columns


def whole_arrays(
    name: str, text: ArrayFile, image: ArrayFile, own: ParquetRows | None, columns: ColumnChoice
) -> ArrayShard:
    """Return a shard with all rows of two arrays."""
    rows, dimension = sizes_of(text)
    return ArrayShard(
        name=name, text=text, image=image, own=own, columns=columns, rows=rows, dimension=dimension
    )


# -- `npy-pair`: two `.npy` files, of captions and of images, and optionally a Parquet file with ids and captions.


NPY_PAIR = "npy-pair"
ROWS_A_SHARD = 1 << 18
"""Rows per shard: 512 MB for 512 float16 numbers on both sides, and about 20 MB of ids."""

USUAL = {
    "id": ("uid", "key", "__key__", "id", "image_path"),
    "caption": ("caption", "captions", "text", "texts", "title"),
    "image_id": ("image_id",),
}
"""Column names that are recognised."""

SIDES = {
    "text": r"(?<![a-z])(text|texts|txt|caption|captions)(?![a-z])",
    "image": r"(?<![a-z])(image|images|img)(?![a-z])",
}
"""Words in file and column names that identify a side."""


def open_npy_pair(
    place: Listing,
    *,
    text: str | None = None,
    image: str | None = None,
    metadata: str | None = None,
    id: str | None = None,
    caption: str | None = None,
    image_id: str | None = None,
    score: str | None = None,
) -> EmbeddedSource:
    """Open two `.npy` files and their table.

    Args:
        place: The folder that holds them.
        text: File of the captions' embeddings, in the folder or anywhere; by default the one whose name says text or
            caption.
        image: File of the images' embeddings; by default the one whose name says image or img.
        metadata: Parquet file; by default the only one in the folder.
        id: Column of the ids; by default the first of `USUAL`, else the number of the row is the id.
        caption: Column of captions; by default the first of `USUAL`.
        image_id: Column that says which image, where several captions share one; `image_id` by default.
        score: Column of a similarity that was computed by the same model.

    Raises:
        InputError: If a file is missing or not unique, the numbers of rows differ, or a given column is missing.
    """
    arrays = {
        side: _named(place, given) if given else _usual(place, side)
        for side, given in (("text", text), ("image", image))
    }
    table = _named(place, metadata) if metadata else _only_table(place)
    known = [ParquetRows(table)] if table is not None else []
    columns = choose_columns(known, USUAL, id=id, caption=caption, image_id=image_id, score=score)
    files = {side: ArrayFile(file) for side, file in arrays.items()}
    rows, dimension = sizes_of(files["text"])
    for other, count in (
        (str(files["image"]), files["image"].header().rows),
        *((str(own.file), own.rows()) for own in known),
    ):
        if rows and count != rows:
            raise InputError(
                f"{other}: has {count:,} rows, but {files['text']} has {rows:,}: they do not match"
            )

    def shard(start: int) -> ArrayShard:
        stop = min(start + ROWS_A_SHARD, rows)
        return ArrayShard(
            name=f"{start // ROWS_A_SHARD:05d}",
            text=files["text"],
            image=files["image"],
            own=ParquetRows(table, start, stop) if table is not None else None,
            columns=columns,
            start=start,
            stop=stop,
            rows=stop - start,
            dimension=dimension,
        )

    shards = [shard(start) for start in range(0, max(rows, 1), ROWS_A_SHARD)]
    return make_source(NPY_PAIR, place.given, shards, columns.id_kind)


def side_of(names: Sequence[str], side: str) -> list[str]:
    """Return the names that identify one side and not the other.

    >>> side_of(["text_emb.npy", "img_emb.npy", "context.npy"], "text")
    ['text_emb.npy']
    """
    other = "image" if side == "text" else "text"

    def says(name: str, which: str) -> bool:
        return re.search(SIDES[which], name.lower()) is not None

    return [name for name in names if says(name, side) and not says(name, other)]


def _usual(place: Listing, side: str) -> DataFile:
    files = place.files(ending=".npy")
    found = side_of(list(files), side)
    if len(found) == 1:
        return files[found[0]]
    several = ", ".join(found or files) or "none"
    problem = "several .npy files could be" if found else "no .npy file has a usual name for"
    raise InputError(
        f"{place.given}: {problem} the embeddings of {side}s ({several:.200}): name it with the option {side}=FILE"
    )


def _only_table(place: Listing) -> DataFile | None:
    tables = place.files(ending=".parquet")
    if len(tables) > 1:
        raise InputError(
            f"{place.given}: has several Parquet files ({', '.join(tables):.200}): name the one of the pairs with the "
            "option metadata=FILE"
        )
    return next(iter(tables.values()), None)


def _named(place: Listing, name: str) -> DataFile:
    """Return the file given by an option: an address, an absolute path, or a file in the folder."""
    if "://" in name or Path(name).is_absolute():
        return list_place(name).place
    found = place.file(name)
    found.size()
    return found


def _recognise_pair(place: Listing) -> str | None:
    names = list(place.files(ending=".npy"))
    text, image = side_of(names, "text"), side_of(names, "image")
    return f"{text[0]} and {image[0]}" if text and image else None


register(
    EmbeddedFormat(
        name=NPY_PAIR,
        summary="two .npy files with one Parquet file of ids and captions",
        looks_for="a .npy named text or caption and one named image or img",
        recognise=_recognise_pair,
        open=open_npy_pair,
    )
)


# -- `clip-retrieval`: the folder that `clip-retrieval inference` writes.


CLIP_RETRIEVAL = "clip-retrieval"


def open_clip_retrieval(
    place: Listing,
    *,
    id: str | None = None,
    caption: str | None = None,
    image_id: str | None = None,
    score: str | None = None,
) -> EmbeddedSource:
    """Open a folder of clip-retrieval.

    Args:
        place: The folder.
        id: Column of the ids; `image_path` by default, the key of the pair in its tar.
        caption: Column of captions; `caption` by default, if there is one.
        image_id: Column that says which image, where several captions share one.
        score: Column of a similarity that was computed by the same model.

    Raises:
        InputError: If there is no text or no image file, two files have the same number, or a given column is missing.
    """
    images = _numbered(place, "img_emb", "npy")
    texts = _numbered(place, "text_emb", "npy")
    tables = _numbered(place, "metadata", "parquet")
    for folder, found in (("img_emb", images), ("text_emb", texts)):
        if not found:
            raise InputError(
                f"{place.given}: has no {folder}/{folder}_*.npy: needs embeddings of both captions and images"
            )
    # `clip-retrieval inference --enable_metadata False` writes none
    owns = {number: ParquetRows(file) for number, (_, file) in tables.items()}
    known = list(owns.values())
    id = id or ("image_path" if known else None)
    columns = choose_columns(
        known, {"caption": ("caption",)}, id=id, caption=caption, image_id=image_id, score=score
    )

    def shard(number: int) -> ArrayShard:
        digits = next(found[number][0] for found in (images, texts, tables) if number in found)

        def file(found: dict[int, tuple[str, DataFile]], folder: str, ending: str) -> DataFile:
            if number in found:
                return found[number][1]
            return place.file(f"{folder}_{digits}.{ending}", folder)

        text = ArrayFile(file(texts, "text_emb", "npy"))
        image = ArrayFile(file(images, "img_emb", "npy"))
        own = ParquetRows(file(tables, "metadata", "parquet")) if owns else None
        return whole_arrays(digits, text, image, own, columns)

    numbers = sorted({*images, *texts, *tables})
    shards = each(shard, numbers, remote=place.remote)
    return make_source(CLIP_RETRIEVAL, place.given, shards, columns.id_kind)


def _numbered(place: Listing, folder: str, ending: str) -> dict[int, tuple[str, DataFile]]:
    """Return the files of one kind by number, with the digits in the name."""
    found: dict[int, tuple[str, DataFile]] = {}
    for name, file in place.files(folder).items():
        if match := re.fullmatch(rf"{folder}_([0-9]{{1,12}})\.{ending}", name):
            number = int(match[1])
            if number in found:
                raise InputError(
                    f"{file}: {found[number][1].name} has the same number: separate the files of the two runs"
                )
            found[number] = (match[1], file)
    return found


def _recognise_clip_retrieval(place: Listing) -> str | None:
    for folder in ("img_emb", "text_emb"):
        if found := _numbered(place, folder, "npy"):
            return f"{folder}/{found[min(found)][1].name}"
    return None


register(
    EmbeddedFormat(
        name=CLIP_RETRIEVAL,
        summary="the folder that `clip-retrieval inference` writes",
        looks_for="img_emb/img_emb_*.npy and text_emb/text_emb_*.npy",
        recognise=_recognise_clip_retrieval,
        open=open_clip_retrieval,
    )
)


# -- `datacomp`: DataComp's metadata folder, one shard per `{stem}.parquet` and `{stem}.npz`.


DATACOMP = "datacomp"
Model = Literal["l14", "b32"]
"""The models of DataComp's embeddings, better one first."""


def open_datacomp(
    place: Listing,
    *,
    model: Model | None = None,
    id: str = "uid",
    caption: str | None = None,
    image_id: str | None = None,
    score: str | None = None,
) -> EmbeddedSource:
    """Open a metadata folder of DataComp.

    Args:
        place: The folder.
        model: Whose embeddings, `b32` or `l14`; by default `l14` if the first shard that can be read has it.
        id: Column of the ids.
        caption: Column of captions; `text` by default.
        image_id: Column that says which image, where several captions share one; `sha256` joins pairs of one image.
        score: Column of stored scores; by default that of the model, if there is one.

    Raises:
        InputError: If there are no such files, the model is absent, or a given column is missing.
    """
    stems = _stems(place)
    if not stems:
        raise InputError(f"{place.given}: has no *.parquet with an *.npz of the same name")
    archives = {stem: place.file(f"{stem}.npz") for stem in stems}
    owns = {stem: ParquetRows(place.file(f"{stem}.parquet")) for stem in stems}
    chosen = _choose_model(model, list(archives.values()))
    known = list(owns.values())
    usual = {"caption": ("text",), "score": (f"clip_{chosen}_similarity_score",)}
    columns = choose_columns(known, usual, id=id, caption=caption, image_id=image_id, score=score)

    def shard(stem: str) -> ArrayShard:
        text, image = (ArrayFile(archives[stem], f"{chosen}_{side}") for side in ("txt", "img"))
        return whole_arrays(stem, text, image, owns[stem], columns)

    shards = each(shard, stems, remote=place.remote)
    return make_source(DATACOMP, place.given, shards, columns.id_kind)


def _stems(place: Listing) -> list[str]:
    """List the stems of `.npz` files. A stem without a table is an unreadable shard."""
    return [file.stem for file in place.files(ending=".npz").values()]


def _choose_model(model: Model | None, archives: list[DataFile]) -> Model:
    if model is not None:
        return model
    for archive in archives:
        try:
            with open_archive(archive) as opened:
                names = opened.namelist()
        except ShardError:
            continue
        for each_model in get_args(Model):
            if f"{each_model}_txt.npy" in names and f"{each_model}_img.npy" in names:
                return cast("Model", each_model)
    return "l14"


def _recognise_datacomp(place: Listing) -> str | None:
    tables = place.files(ending=".parquet")
    return next((f"{s}.npz" for s in _stems(place) if f"{s}.parquet" in tables), None)


register(
    EmbeddedFormat(
        name=DATACOMP,
        summary="DataComp's metadata with its CLIP embeddings",
        looks_for="*.npz next to a *.parquet of the same name",
        recognise=_recognise_datacomp,
        open=open_datacomp,
    )
)
