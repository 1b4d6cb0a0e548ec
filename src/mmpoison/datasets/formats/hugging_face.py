"""`hugging-face`: data sets saved by the `datasets` library (`save_to_disk`), or on the hub by name."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

from mmpoison.base.extras import require
from mmpoison.base.untrusted import read_json
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.entries import ImageEntry, add_entries
from mmpoison.datasets.formats.arrow_rows import (
    bounded_batches,
    choose_columns,
    complete_arrow_columns,
    entries_of,
    short,
)
from mmpoison.datasets.formats.columns import SAMPLE_ROWS, ColumnNames, split_name
from mmpoison.errors import InputError
from mmpoison.images.containers import arrow_batches, arrow_errors
from mmpoison.pairs.builder import PairsBuilder, check_relative
from mmpoison.pairs.folder import with_manifest
from mmpoison.pairs.table import PairDataset

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

Part = tuple[str, str | None]
"""An Arrow file relative to the root, and the split that it belongs to."""


def load_hugging_face(
    root: Path,
    seed: int = 0,
    *,
    images: str | Path | None = None,
    own_columns: bool = False,
    **columns: Unpack[ColumnNames],
) -> PairDataset:
    """Load what `save_to_disk` of the `datasets` library wrote; the library is not needed.

    Args:
        root: Folder with `dataset_info.json` and `state.json`, or with `dataset_dict.json`.
        seed: Not used.
        images: Folder that image paths start from, where the column holds paths; the folder itself by default.
        own_columns: Read the other columns too, but those of bytes, so that they are written with the pairs again.
        **columns: Which columns are read, see `ColumnNames`.

    Returns:
        The pairs; splits by the column, else by the names of the parts.

    Raises:
        InputError: If it is no such folder, or nothing in it can be used.
    """
    pairs = _load_parts(root, _saved_parts(root), images, columns, str(root), own_columns)
    return with_manifest(pairs, root)


def load_hub(
    hub: str,
    *,
    config: str | None = None,
    images: str | Path | None = None,
    own_columns: bool = False,
    **columns: Unpack[ColumnNames],
) -> PairDataset:
    """Load a data set of the hub, downloaded into the cache of `datasets`.

    Code of the data set is never run, and no token is sent.

    Args:
        hub: Its name, `org/name`.
        config: Configuration, where there are several.
        images: As for `load_hugging_face`.
        own_columns: As for `load_hugging_face`.
        **columns: As for `load_hugging_face`.

    Raises:
        InputError: If `datasets` is missing, or the hub cannot give the data set.
    """
    folder, parts = _download(hub, config)
    return _load_parts(folder, parts, images, columns, f"hf:{hub}", own_columns)


def _load_parts(
    folder: Path,
    parts: list[Part],
    images: str | Path | None,
    columns: ColumnNames,
    what: str,
    own: bool,
) -> PairDataset:
    base = folder if images is None else Path(images)
    entries = list(_entries(folder, parts, base, columns, own))
    # bytes lie in the files, wherever other images may be
    inside = any(isinstance(entry, ImageEntry) and entry.inside for entry in entries)
    builder = PairsBuilder(folder if inside else base, own_paths=True)
    add_entries(entries, builder)
    return builder.build(what)


def _saved_parts(root: Path) -> list[Part]:
    if (root / "dataset_dict.json").is_file():
        splits = _object(root / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(s, str) for s in splits):
            raise InputError(f"{root / 'dataset_dict.json'}: 'splits' must be a list of names")
        return [part for split in splits for part in _part(root, split)]
    if not (root / "state.json").is_file():
        raise InputError(
            f"{root}: has neither dataset_dict.json nor state.json, so save_to_disk did not write it"
        )
    return _part(root, "")


def _part(root: Path, split: str) -> list[Part]:
    if split:
        check_relative(split, str(root / "dataset_dict.json"))
    file = root / split / "state.json"
    state = _object(file)
    files = state.get("_data_files")
    listed = files if isinstance(files, list) else []
    names = [str(f["filename"]) for f in listed if isinstance(f, dict) and "filename" in f]
    if not names or len(names) < len(listed):
        raise InputError(f"{file}: '_data_files' must be a list of file names")
    own = split or (state.get("_split") if isinstance(state.get("_split"), str) else None)
    parts: list[Part] = []
    for name in names:
        check_relative(name, str(file))
        parts.append((f"{split}/{name}" if split else name, split_name(own)))
    return parts


def _object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise InputError(f"{file}: a JSON object is needed")
    return value


def _download(hub: str, config: str | None) -> tuple[Path, list[Part]]:
    datasets = require("datasets", "data sets of the hub need the datasets library")
    if not _HUB_NAME.fullmatch(hub):
        raise InputError(f"hf:{hub}: a name of the hub is needed, as hf:org/name")
    if Path(hub).exists():
        # the library would take it for the data set
        raise InputError(
            f"hf:{hub}: there is a folder {hub} here: give it without hf: if you mean it"
        )
    options: dict[str, Any] = {"token": False}
    if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:
        # releases before 4 could run code of the data set, some of them by default
        options["trust_remote_code"] = False
    # it logs each of its own tries to reach the hub; what came of them is said below
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        loaded = datasets.load_dataset(hub, config, **options)
    except Exception as error:
        # the library and the network raise many kinds; whatever it is, the user can only choose another name
        line = " ".join(str(error).split())[:200]
        raise InputError(
            f"hf:{hub}: cannot be loaded from the hub ({type(error).__name__}: {line})"
        ) from None
    finally:
        log.setLevel(level)
    found: list[tuple[Path, str]] = []
    for split, part in loaded.items():
        if part._indices is not None:
            raise InputError(f"hf:{hub}: split {split!r} is a selection, not whole files")
        found += [(Path(file["filename"]).resolve(), split) for file in part.cache_files]
    if not found:
        raise InputError(f"hf:{hub}: the library keeps no files of it")
    folder = Path(os.path.commonpath([file.parent for file, _ in found]))
    return folder, [
        (file.relative_to(folder).as_posix(), split_name(split)) for file, split in found
    ]


def _entries(
    folder: Path, parts: list[Part], root: Path, chosen: ColumnNames, own: bool
) -> Iterator[ImageEntry | str]:
    found: ColumnNames | None = None
    for name, split in parts:
        problems: list[str] = []
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield f"{path}: leads out of {folder}, it is refused"
            continue
        if not path.is_file():
            yield f"{path}: no such file"
            continue
        batches = arrow_batches(path, problems.append)
        first = next(batches, None)
        if first is not None:
            try:
                # what is found by the values of the first file holds for all
                if found is None:
                    sample = partial(_sample_batch, first)
                    found = complete_arrow_columns(first.schema, chosen, str(path), root, sample)
                columns = choose_columns(first.schema, found, str(path), own_columns=own)
            except UnicodeDecodeError:
                yield f"{path}: the name of a column is not UTF-8"
                continue
            try:
                checked = _checked(chain([first], batches), columns.needed)
                bounded = bounded_batches(checked, path, name, problems)
                yield from entries_of(bounded, columns, name, root, split)
            except InputError as error:
                yield f"{path}: {error}, what follows in it is lost"
        yield from problems


def _sample_batch(batch: Any, columns: list[str]) -> Any:
    try:
        return next(_checked([batch.slice(0, SAMPLE_ROWS)], columns))[1]
    except InputError:
        return None  # broken: reading says so


def _checked(batches: Iterable[Any], needed: list[str]) -> Iterator[tuple[int, Any]]:
    """Yield batches with only the needed columns, fully validated."""
    rows = 0
    for batch in batches:
        part = batch.select(needed)
        for column in part.columns:
            _check_bounds(column)
        yield rows, part
        rows += part.num_rows


def _check_bounds(column: Any) -> None:
    """Check that nothing in an array points out of its data; following it would end the process."""
    try:
        # as bytes, since text that is no UTF-8 is left to the row it stands in
        column.view(_as_bytes(column.type)).validate(full=True)
    except arrow_errors() as error:
        raise InputError(f"broken Arrow file ({short(error)})") from None


def _as_bytes(kind: Any) -> Any:
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_string(kind):
        return pa.binary()
    if types.is_large_string(kind):
        return pa.large_binary()
    if types.is_list(kind):
        return pa.list_(_as_bytes(kind.value_type))
    if types.is_large_list(kind):
        return pa.large_list(_as_bytes(kind.value_type))
    return kind


def _recognise(path: Path) -> str | None:
    if (path / "dataset_dict.json").is_file():
        return "dataset_dict.json"
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "state.json"
    return None


register(
    DataSource(
        name="hugging-face",
        summary="what the datasets library saved (save_to_disk), or a data set of the hub (hf:org/name)",
        where_from="datasets.Dataset.save_to_disk, or the hub of Hugging Face",
        load=load_hugging_face,
        recognise=_recognise,
        prefix="hf:",
        load_address=load_hub,
    )
)
