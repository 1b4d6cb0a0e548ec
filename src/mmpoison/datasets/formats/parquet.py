"""`parquet`: tables with a column of images (paths or bytes) and a column of captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Unpack

from mmpoison.base.untrusted import LeftOut, broken_file, refuse_packed, text_leaves
from mmpoison.datasets.catalogue import register_format
from mmpoison.datasets.formats.arrow_rows import (
    ROWS_MEASURED,
    BatchReader,
    TableFile,
    open_tables,
    sort_tables,
)
from mmpoison.datasets.formats.columns import ColumnNames, split_of_path
from mmpoison.datasets.own_rows import GoneRows, RowVerdicts
from mmpoison.errors import InputError
from mmpoison.images.containers import arrow_errors, short
from mmpoison.pairs.builder import PairRows

ROWS_AT_ONCE = 4096


def open_parquet(
    root: Path,
    *,
    images: str | Path | None = None,
    own_columns: bool = False,
    **columns: Unpack[ColumnNames],
) -> PairRows:
    """Open Parquet files. Images stored as bytes stay in the files.

    Args:
        root: A file, or a folder of `*.parquet` (also in folders below it).
        images: Folder that image paths start from, where the column holds paths; the folder itself by default.
        own_columns: Read the other columns too, but those of bytes, so that they are written with the pairs again.
        **columns: Which columns are read, see `ColumnNames`.

    Returns:
        The rows. Where no column tells the split, the names of folders and files do (`train-00000-of-00001.parquet`).

    Raises:
        InputError: If there is no such file, or it has no columns of images and captions.
    """
    folder, files, refused = _tables(root)
    return open_tables(
        folder, files, str(root),
        images=images, own_columns=own_columns, chosen=columns, refused=refused,
    )  # fmt: skip


def sort_parquet(
    root: Path,
    out: Path,
    verdicts: RowVerdicts,
    *,
    images: str | Path | None = None,
    **columns: Unpack[ColumnNames],
) -> Iterator[GoneRows]:
    """Write `kept.parquet`, or several files to the folder `kept`; yield the dropped pairs.

    Args:
        root: As for `open_parquet`.
        out: Folder of what is written.
        verdicts: Which pairs stay.
        images: As for `open_parquet`.
        **columns: As for `open_parquet`.
    """
    import pyarrow.parquet as pq

    folder, files, _ = _tables(root)

    def writer(file: TableFile, schema: Any) -> Any:
        target = out / ("kept.parquet" if len(files) == 1 else f"kept/{file.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        return pq.ParquetWriter(target, schema)

    return sort_tables(files, folder, verdicts, writer, images=images, chosen=columns)


def _tables(root: Path) -> tuple[Path, list[TableFile], list[LeftOut]]:
    folder, paths, refused = find_files(root)
    names = (path.relative_to(folder).as_posix() for path in paths)
    files = [
        TableFile(path, name, split_of_path(name), _open)
        for path, name in zip(paths, names, strict=True)
    ]
    return folder, files, refused


def find_files(path: Path, pattern: str = "*.parquet") -> tuple[Path, list[Path], list[LeftOut]]:
    """Return the folder that ids are relative to, its matching files, and a message for each refused file.

    Hidden files are left out; a link that points outside the folder is refused.

    Raises:
        InputError: If there are none.
    """
    if path.is_file():
        # a link given by the user is intended, so use its target
        path = path.resolve() if path.is_symlink() else path
        return path.parent, [path], []
    files = sorted(
        file
        for file in path.rglob(pattern)
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise InputError(f"{path}: has no {pattern}")
    whole = path.resolve()
    inside, refused = [], []
    for file in files:
        if file.resolve().is_relative_to(whole):
            inside.append(file)
        else:
            refused.append(broken_file(f"{file}: points outside {path}, so it is refused"))
    return path, inside, refused


def _open(file: TableFile, problem: Callable[[str], None]) -> tuple[Any, BatchReader]:
    import pyarrow.parquet as pq

    def read(columns: list[str], sample: bool) -> Iterator[tuple[int, Any]]:
        with pq.ParquetFile(file.path) as opened:
            leaves = text_leaves(opened, columns)
            refuse_packed(
                opened.metadata,
                file.path.stat().st_size,
                file.name,
                columns=columns,
                groups=range(opened.num_row_groups)[:1] if sample else None,
            )
        rows = ROWS_MEASURED if sample else ROWS_AT_ONCE
        with pq.ParquetFile(file.path, read_dictionary=leaves) as opened:
            yield from _batches(opened, columns, rows, file.name, problem)

    return pq.read_schema(file.path), read


def _batches(
    file: Any, columns: list[str], rows: int, name: str, problem: Callable[[str], None]
) -> Iterator[tuple[int, Any]]:
    """Yield record batches with their first row numbers, continuing after a broken row group."""
    given = 0
    try:
        for batch in file.iter_batches(rows, columns=columns, use_threads=False):
            yield given, batch
            given += batch.num_rows
        return
    except arrow_errors():
        pass
    start = 0
    for group in range(file.metadata.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        if stop > given:
            try:
                table = file.read_row_group(group, columns=columns, use_threads=False)
                skipped = max(given - start, 0)
                for batch in table.slice(skipped).to_batches():
                    yield start + skipped, batch
                    skipped += batch.num_rows
            except arrow_errors() as error:
                lost = range(max(start, given), stop)
                line = f"{name} rows {lost[0]} to {lost[-1]}: broken Parquet file ({short(error)})"
                problem(LeftOut(line, len(lost), broken=True))
        start = stop


def _recognise(path: Path) -> str | None:
    if path.is_file():
        return path.name if path.suffix == ".parquet" else None
    for folder in (path, path / "data"):
        for file in sorted(folder.glob("*.parquet")):
            # next to a tar shard, it is img2dataset's log of the shard
            if not file.with_suffix(".tar").exists():
                return file.relative_to(path).as_posix()
    return None


register_format(
    open_parquet,
    name="parquet",
    summary="Parquet files with images (paths or bytes) and captions, as on the Hugging Face hub",
    where_from="`to_parquet` of Hugging Face's `datasets`, or your own files",
    recognise=_recognise,
    priority=1,
    sort_rows=sort_parquet,
)
