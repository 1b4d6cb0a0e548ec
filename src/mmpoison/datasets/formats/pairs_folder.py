"""`pairs-folder`: the format of the project itself, as one of the formats a path may have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.pairs.folder import (
    CAPTIONS_FILE,
    load_pairs_folder,
    require_no_manifest,
    stream_pairs_folder,
)
from mmpoison.pairs.table import PairDataset


def _load(
    root: Path,
    seed: int = 0,
    *,
    images: str | Path | None = None,
    strict: bool = True,
    own_columns: bool = False,
) -> PairDataset:
    return load_pairs_folder(root, images=images, strict=strict, own_columns=own_columns)


def _stream(
    root: Path,
    images_at_once: int,
    *,
    images: str | Path | None = None,
    strict: bool = True,
    own_columns: bool = False,
) -> Iterator[PairDataset]:
    require_no_manifest(root)
    yield from stream_pairs_folder(
        root, images_at_once, images=images, strict=strict, own_columns=own_columns
    )


def _recognise(path: Path) -> str | None:
    return CAPTIONS_FILE if (path / CAPTIONS_FILE).is_file() else None


register(
    DataSource(
        name="pairs-folder",
        summary=f"a folder with {CAPTIONS_FILE}, one image a line, and the images",
        where_from="a folder written by `mmpoison data convert`, or by hand (see the page on data formats)",
        load=_load,
        recognise=_recognise,
        stream=_stream,
    )
)
