"""`parquet`: tables with a column of images, as paths or as bytes, and a column of captions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

from mmpoison.base.untrusted_parquet import refuse_packed, text_leaves
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.entries import ImageEntry, add_entries, pieces
from mmpoison.datasets.formats.arrow_rows import (
    ROWS_MEASURED,
    TableColumns,
    bounded_batches,
    choose_columns,
    complete_arrow_columns,
    entries_of,
    short,
)
from mmpoison.datasets.formats.columns import ColumnNames, split_of_path
from mmpoison.errors import InputError
from mmpoison.images.containers import arrow_errors
from mmpoison.pairs.builder import PairsBuilder
from mmpoison.pairs.folder import require_no_manifest, with_manifest
from mmpoison.pairs.table import PairDataset

ROWS_AT_ONCE = 4096


def load_parquet(
    root: Path,
    seed: int = 0,
    *,
    images: str | Path | None = None,
    own_columns: bool = False,
    **columns: Unpack[ColumnNames],
) -> PairDataset:
    """Load Parquet files; images that are bytes stay where they are.

    Args:
        root: A file, or a folder of `*.parquet` (also in folders below it).
        seed: Not used.
        images: Folder that image paths start from, where the column holds paths; the folder itself by default.
        own_columns: Read the other columns too, but those of bytes, so that they are written with the pairs again.
        **columns: Which columns are read, see `ColumnNames`.

    Returns:
        The pairs. Where no column tells the split, the names of folders and files do (`train-00000-of-00001.parquet`).

    Raises:
        InputError: If there is no such file or nothing in it can be used.
    """
    folder, files, refused = find_files(root)
    first, columns = _first_columns(folder, files, columns, images)
    builder = PairsBuilder(_image_root(folder, images, first), own_paths=True)
    add_entries(
        chain(refused, _entries(folder, files, builder.root, columns, own_columns)), builder
    )
    return with_manifest(builder.build(str(root)), folder)


def stream_parquet(
    root: Path,
    images_at_once: int,
    *,
    images: str | Path | None = None,
    own_columns: bool = False,
    **columns: Unpack[ColumnNames],
) -> Iterator[PairDataset]:
    """Read Parquet files in pieces; memory does not grow with their number of rows.

    Args:
        root: As for `load_parquet`.
        images_at_once: Images in each piece.
        images: As for `load_parquet`.
        own_columns: As for `load_parquet`.
        **columns: As for `load_parquet`.

    Raises:
        InputError: As for `load_parquet`; also for a poisoned set, which is known only as a whole.
    """
    folder, files, refused = find_files(root)
    require_no_manifest(folder)
    first, columns = _first_columns(folder, files, columns, images)
    base = _image_root(folder, images, first)
    entries = chain(refused, _entries(folder, files, base, columns, own_columns))
    yield from pieces(entries, base, images_at_once, own_paths=True)


def find_files(path: Path, pattern: str = "*.parquet") -> tuple[Path, list[Path], list[str]]:
    """Return the folder that ids start from, the files of a kind in it, and a line for each refused file.

    Hidden files are left out; a link that leads out of the folder is refused.

    Raises:
        InputError: If there are none.
    """
    if path.is_file():
        # a link that the user names is no surprise; what it leads to is taken where it lies
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
            refused.append(f"{file}: leads out of {path}, it is refused")
    return path, inside, refused


def _image_root(folder: Path, images: str | Path | None, first: TableColumns | None) -> Path:
    # bytes lie in the files, wherever other images may be
    inside = first is not None and first.inside
    return folder if images is None or inside else Path(images)


def _first_columns(
    folder: Path, files: list[Path], chosen: ColumnNames, images: str | Path | None
) -> tuple[TableColumns | None, ColumnNames]:
    """Return the columns of the first readable file, and the choice for all: what its values say holds for all."""
    import pyarrow.parquet as pq

    for file in files:
        try:
            schema = pq.read_schema(file)
            root = _image_root(folder, images, None)
            chosen = complete_arrow_columns(
                schema, chosen, str(file), root, partial(_sample_batch, file)
            )
        except arrow_errors():
            continue
        # raises for columns that are not there: of all files the first says it
        return choose_columns(schema, chosen, str(file)), chosen
    return None, chosen


def _sample_batch(path: Path, columns: list[str]) -> Any:
    """Read some columns of the first rows of a file; None if they are broken or beyond the bounds on text."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        leaves = text_leaves(file, columns)
        refuse_packed(
            file.metadata,
            path.stat().st_size,
            path,
            columns=columns,
            groups=range(file.num_row_groups)[:1],
        )
    with pq.ParquetFile(path, read_dictionary=leaves) as file, suppress(*arrow_errors()):
        batches = file.iter_batches(ROWS_MEASURED, columns=columns, use_threads=False)
        bounded = bounded_batches(enumerate(batches), path, path.name, [])
        return next((batch for _, batch in bounded), None)


def _entries(
    folder: Path, files: list[Path], root: Path, chosen: ColumnNames, own: bool
) -> Iterator[ImageEntry | str]:
    import pyarrow.parquet as pq

    inside: bool | None = None
    for path in files:
        name = path.relative_to(folder).as_posix()
        problems: list[str] = []
        try:
            with pq.ParquetFile(path) as file:
                columns = choose_columns(file.schema_arrow, chosen, name, own_columns=own)
                if inside is not None and columns.inside != inside:
                    kind = "bytes" if columns.inside else "paths"
                    yield f"{name}: holds {kind} of images, the first file does not"
                    continue
                inside = columns.inside
                leaves = text_leaves(file, columns.needed)
                refuse_packed(file.metadata, path.stat().st_size, name, columns=columns.needed)
            with pq.ParquetFile(path, read_dictionary=leaves) as file:
                batches = _batches(file, columns.needed, name, problems)
                bounded = bounded_batches(batches, path, name, problems)
                yield from entries_of(bounded, columns, name, root, split_of_path(name))
        except InputError as error:
            yield str(error)
        except arrow_errors() as error:
            yield f"{name}: broken Parquet file ({short(error)})"
        yield from problems


def _batches(
    file: Any, columns: list[str], name: str, problems: list[str]
) -> Iterator[tuple[int, Any]]:
    """Yield record batches with the numbers of their first rows; after a broken group, continue with the next."""
    given = 0
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
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
                problems.append(
                    f"{name} rows {max(start, given)} to {stop - 1}: broken Parquet file ({short(error)})"
                )
        start = stop


def _recognise(path: Path) -> str | None:
    if path.is_file():
        return path.name if path.suffix == ".parquet" else None
    for folder in (path, path / "data"):
        for file in sorted(folder.glob("*.parquet")):
            # next to a tar shard it is img2dataset's log of the shard
            if not file.with_suffix(".tar").exists():
                return file.relative_to(path).as_posix()
    return None


register(
    DataSource(
        name="parquet",
        summary="Parquet files with images (paths or bytes) and captions, as Hugging Face's hub has them",
        where_from="`mmpoison data convert --to parquet`, or files of your own",
        load=load_parquet,
        recognise=_recognise,
        priority=1,
        stream=stream_parquet,
    )
)
