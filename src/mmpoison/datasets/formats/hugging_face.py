"""`hugging-face`: data sets saved with the `datasets` library (`save_to_disk`), or from the hub by name."""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

from mmpoison.base.extras import require
from mmpoison.base.untrusted import read_json
from mmpoison.datasets.catalogue import register_format
from mmpoison.datasets.formats.arrow_rows import BatchReader, TableFile, open_tables, sort_tables
from mmpoison.datasets.formats.columns import SAMPLE_ROWS, ColumnNames, split_name
from mmpoison.datasets.own_rows import GoneRows, RowVerdicts
from mmpoison.errors import InputError
from mmpoison.images.containers import arrow_batches, arrow_errors, short
from mmpoison.pairs.builder import PairRows, check_relative
from mmpoison.pairs.table import PairDataset

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")

Part = tuple[str, str | None]
"""An Arrow file, relative to the root, and its split."""


def open_hugging_face(
    root: Path,
    *,
    images: str | Path | None = None,
    own_columns: bool = False,
    **columns: Unpack[ColumnNames],
) -> PairRows:
    """Open a folder written by `save_to_disk` of the `datasets` library, without needing the library.

    Args:
        root: Folder with `dataset_info.json` and `state.json`, or with `dataset_dict.json`.
        images: Folder that image paths start from, where the column holds paths; the folder itself by default.
        own_columns: Read the other columns too, but those of bytes, so that they are written with the pairs again.
        **columns: Which columns are read, see `ColumnNames`.

    Returns:
        The rows; splits by the column, else by the names of the parts.

    Raises:
        InputError: If it is no such folder, or has no columns of images and captions.
    """
    return open_tables(
        root, _tables(root), str(root), images=images, own_columns=own_columns, chosen=columns
    )


def sort_hugging_face(
    root: Path,
    out: Path,
    verdicts: RowVerdicts,
    *,
    images: str | Path | None = None,
    **columns: Unpack[ColumnNames],
) -> Iterator[GoneRows]:
    """Write the folder `kept`, which `datasets.load_from_disk` reads; yield the dropped pairs.

    Args:
        root: As for `open_hugging_face`.
        out: Folder of what is written.
        verdicts: Which pairs stay.
        images: As for `open_hugging_face`.
        **columns: As for `open_hugging_face`.
    """
    import pyarrow as pa

    kept = out / "kept"
    for file in (*root.glob("*.json"), *root.glob("*/*.json")):
        if file.name in ("dataset_info.json", "state.json", "dataset_dict.json"):
            target = kept / file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())

    def writer(file: TableFile, schema: Any) -> Any:
        return pa.ipc.new_stream(kept / file.name, schema)

    return sort_tables(_tables(root), root, verdicts, writer, images=images, chosen=columns)


def _tables(root: Path) -> list[TableFile]:
    return [TableFile(root / name, name, split, _open) for name, split in _saved_parts(root)]


def load_hub(
    hub: str,
    *,
    config: str | None = None,
    images: str | Path | None = None,
    own_columns: bool = False,
    **columns: Unpack[ColumnNames],
) -> PairDataset:
    """Load a data set from the hub, downloading it to the cache of `datasets`.

    Never runs code of the data set, and sends no token.

    Args:
        hub: Its name, `org/name`.
        config: Configuration, if there are several.
        images: As for `open_hugging_face`.
        own_columns: As for `open_hugging_face`.
        **columns: As for `open_hugging_face`.

    Raises:
        InputError: If `datasets` is missing, or the hub cannot give the data set.
    """
    folder, parts = _download(hub, config)
    files = [TableFile(folder / name, name, split, _open) for name, split in parts]
    return open_tables(
        folder, files, f"hf:{hub}", images=images, own_columns=own_columns, chosen=columns
    ).table()


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
        raise InputError(f"{file}: expected a JSON object")
    return value


def _download(hub: str, config: str | None) -> tuple[Path, list[Part]]:
    datasets = require("datasets", "data sets of the hub need the datasets library")
    if not _HUB_NAME.fullmatch(hub):
        raise InputError(f"hf:{hub}: give a hub name, e.g. hf:org/name")
    if Path(hub).exists():
        # the library would mistake it for the data set
        raise InputError(
            f"hf:{hub}: there is a folder {hub} here: give it without hf: if you mean it"
        )
    options: dict[str, Any] = {"token": False}
    if "trust_remote_code" in inspect.signature(datasets.load_dataset).parameters:
        # releases before 4 could run a data set's code, some of them by default
        options["trust_remote_code"] = False
    # it logs every attempt to reach the hub; the outcome is reported below
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        loaded = datasets.load_dataset(hub, config, **options)
    except Exception as error:
        # the library and the network raise many kinds of errors; in any case the user can only choose another name
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
        raise InputError(f"hf:{hub}: the library has no cached files of it")
    folder = Path(os.path.commonpath([file.parent for file, _ in found]))
    return folder, [
        (file.relative_to(folder).as_posix(), split_name(split)) for file, split in found
    ]


def _open(file: TableFile, problem: Callable[[str], None]) -> tuple[Any, BatchReader] | None:
    folder = file.path.parents[file.name.count("/")]
    if not file.path.resolve().is_relative_to(folder.resolve()):
        problem(f"{file.path}: points outside {folder}, so it is refused")
        return None
    if not file.path.is_file():
        problem(f"{file.path}: no such file")
        return None
    batches = arrow_batches(file.path, problem)
    first: Any = next(batches, None)

    def read(columns: list[str], sample: bool) -> Iterator[tuple[int, Any]]:
        rows = 0
        for batch in [first.slice(0, SAMPLE_ROWS)] if sample else chain([first], batches):
            part = batch.select(columns)
            for column in part.columns:
                try:
                    _check_bounds(column)
                except arrow_errors() as error:
                    problem(
                        f"{file.path}: broken Arrow file ({short(error)}); the rest is not read"
                    )
                    return
            yield rows, part
            rows += part.num_rows

    return None if first is None else (first.schema, read)


def _check_bounds(column: Any) -> None:
    """Check that no offset in an array points outside its data, because following it would crash the process."""
    # as bytes, because text that is not UTF-8 is reported with its row
    column.view(_as_bytes(column.type)).validate(full=True)


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


register_format(
    open_hugging_face,
    name="hugging-face",
    summary="what the datasets library saved (save_to_disk), or a data set of the hub (hf:org/name)",
    where_from="datasets.Dataset.save_to_disk, or the hub of Hugging Face",
    recognise=_recognise,
    prefix="hf:",
    load_address=load_hub,
    streams=False,
    sort_rows=sort_hugging_face,
)
