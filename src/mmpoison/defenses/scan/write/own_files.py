"""Writes the kept pairs in the user's own file format, and as a pairs folder with its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmpoison.datasets.own_rows import GoneRows, KeptKeys, RowVerdicts, table_of_objects
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.write.keep_lists import KEEP_FOLDER, KeepList, keep_list
from mmpoison.defenses.scan.write.tables import drop_schema, write_drops
from mmpoison.errors import InputError
from mmpoison.pairs.table import BoolArray, own_values

if TYPE_CHECKING:
    import pyarrow as pa


from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

from mmpoison.base.files import atomic_folder
from mmpoison.defenses.scan.read.pieces import write_unreadable
from mmpoison.pairs.folder import (
    CAPTIONS_FILE,
    MANIFEST_FILE,
    ImagePolicy,
    append_pairs,
    copy_notices,
    write_data_card,
)
from mmpoison.pairs.table import PairDataset

# -- Lists of a scan: kept pairs in the source's format, dropped pairs with all their columns.


def write_own_files(
    pieces: PairPieces, keep: BoolArray, gone: Sequence[pa.Table], folder: Path
) -> tuple[str | None, list[str]]:
    """Write `drop.parquet` and `drop.csv`, and the kept pairs: `kept.*` for a table, lists of keys for tars.

    Args:
        pieces: The set.
        keep: Mask of the training pairs to keep, in stream order, shape `(N,)`.
        gone: The dropped training pairs, from `write_results`.
        folder: The result folder.

    Returns:
        Name of the file or folder with the kept pairs, or None; and notes on it for the user.

    Raises:
        InputError: If the source has changed.
    """
    import pyarrow as pa

    sort = None if pieces.data is None else pieces.data.source.sort_rows
    found = pa.concat_tables(gone) if gone else None
    if sort is None or pieces.data is None:
        own = pa.schema([("image", pa.string()), ("caption", pa.string())])
        with write_drops(folder, own) as write:
            if found is not None:
                write(found.drop_columns(["caption_place"]))
        return None, []
    verdicts = _verdicts(pieces, keep)
    parts: list[GoneRows] = []
    keys: KeepList | None = None
    with ExitStack() as stack:
        options = {
            name: value for name, value in pieces.data.options.items() if name != "own_columns"
        }
        for one in sort(pieces.data.place, folder, verdicts, **options):
            if isinstance(one, GoneRows):
                parts.append(one)
                continue
            assert isinstance(one, KeptKeys)
            if keys is None:
                keys = stack.enter_context(keep_list(folder, "key"))
            keys.add(one.shard, one.keys, one.stays)
    _write_gone(parts, verdicts, found, folder)
    notes = [] if keys is None else keys.notes
    written = next(
        folder.glob("kept*"), None
    )  # a file with its own extension, or a folder of several files
    if written is not None and pieces.manifest is not None:
        shutil.rmtree(written) if written.is_dir() else written.unlink()
        return None, [
            f"{written.name} is not written, because it would lack the manifest: use --kept DIR"
        ]
    if written is None and (folder / KEEP_FOLDER).exists():
        written = folder / KEEP_FOLDER
    return None if written is None else written.name, notes


def _verdicts(pieces: PairPieces, keep: BoolArray) -> RowVerdicts:
    """Return the verdicts on all pairs; pairs that were not judged are kept."""
    rows, stays = [], []
    start = 0
    for piece in pieces:
        judged = piece.in_split("train")
        stop = start + int(judged.sum())
        mask = ~judged
        mask[judged] = keep[start:stop]
        start = stop
        assert piece.pairs.rows is not None, "pieces have the places of their pairs"
        rows.append(piece.pairs.rows)
        stays.append(mask)
    return RowVerdicts(rows, stays)


def _write_gone(
    parts: Sequence[GoneRows], verdicts: RowVerdicts, found: pa.Table | None, folder: Path
) -> None:
    """Join the source's rows with the scan's results."""
    import pyarrow as pa

    number: dict[tuple[str, int, int], int] = {}
    if found is not None:
        places = (found[name].to_pylist() for name in ("shard", "row", "caption_place"))
        number = {place: at for at, place in enumerate(zip(*places, strict=True))}
    files = verdicts.files
    order = [number.get((files[one.file], *place)) for one in parts for place in one.at.tolist()]
    if None in order or len(order) != len(number):
        raise InputError(
            "the files of the source changed during the scan: stop changing them and scan again"
        )
    own, several = _joined([one.table for one in parts]), verdicts.several
    schema = drop_schema(own.schema, captions=several)
    with write_drops(folder, own.schema, captions=several) as write:
        if found is not None:
            ours = [*(["caption"] if several else []), *drop_schema(pa.schema([])).names]
            said = found.select(ours).take(pa.array(np.array(order, dtype=np.int64)))
            write(pa.Table.from_arrays([*own.columns, *said.columns], schema=schema))


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Concatenate tables; a column with incompatible types becomes text."""
    import pyarrow as pa

    if not tables:
        return pa.table({})
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        rows = (own_values(row) for table in tables for row in table.to_pylist())
        return table_of_objects(list(rows))


# -- The kept pairs as a pairs folder, with a manifest of the remaining poison.


def save_kept(
    pieces: PairPieces,
    keep: BoolArray,
    facts: Mapping[str, Any],
    out: Path,
    *,
    split: str = "train",
    images: ImagePolicy = "link",
) -> Path:
    """Write the kept pairs, and the pairs that were not judged, as a pairs folder.

    If the poison is known, the manifest is copied, reduced to the kept poisoned pairs. Images that `pieces` leaves out
    are omitted with all their pairs and listed in `unreadable.jsonl`.

    Args:
        pieces: The set.
        keep: Mask of the judged pairs to keep, in stream order, shape `(N,)`.
        facts: Facts about the scan for the manifest.
        out: New folder.
        split: The judged split.
        images: As in `save_pairs`.

    Raises:
        InputError: If `out` is not empty.
    """
    manifest, left_out = pieces.manifest, pieces.left_out
    listed = manifest.pairs if manifest is not None else ()
    named = {name for pair in listed for name in (pair.clean_image, pair.poisoned_image)}
    names: dict[str, str] = {}
    left: set[int] = set()
    unreadable: list[PairDataset] = []
    start = train = total = 0
    with atomic_folder(out) as folder:
        with (folder / CAPTIONS_FILE).open("w", encoding="utf-8") as captions:
            for piece in pieces:
                judged = piece.in_split(split)
                part = slice(start, start + int(judged.sum()))
                start = part.stop
                stays = ~judged
                stays[judged] = keep[part]
                left.update(piece.entry[stays & piece.poisoned].tolist())
                total += int(stays.sum())
                train += int((piece.in_split("train") & stays).sum())
                rest = piece.pairs.where(stays)
                if left_out:
                    rest, without = _parted(rest, left_out)
                    unreadable.append(without)
                written = append_pairs(rest, folder, captions, images)
                for old, new in zip(rest.images.ids, written.images.ids, strict=True):
                    if old in named:
                        names[old] = new
                root = piece.pairs.root
            added = {}
            if manifest is not None:
                carriers = {listed[number].poisoned_image for number in left}
                added = {n: new for n, new in manifest.added_images.items() if n in carriers}
                # an image still named in the manifest keeps its line, without caption or file
                needed = {
                    *(listed[number].clean_image for number in left),
                    *manifest.target_images.values(),
                    *manifest.dropped_images,
                    *(new.made_from for new in added.values()),
                }
                for without in unreadable:
                    append_pairs(_parted(without, needed)[1], folder, captions, "none")
        if manifest is not None:
            kept = tuple(
                replace(
                    pair,
                    clean_image=names.get(pair.clean_image, pair.clean_image),
                    poisoned_image=names.get(pair.poisoned_image, pair.poisoned_image),
                )
                for number, pair in enumerate(listed)
                if number in left
            )
            added = {
                names.get(name, name): replace(
                    new, made_from=names.get(new.made_from, new.made_from)
                )
                for name, new in added.items()
            }
            manifest = replace(
                manifest, pairs=kept, added_images=added, training_pairs=train, filtered=facts
            )
            manifest.write(folder / MANIFEST_FILE)
        copy_notices(root, folder)
        if manifest is not None:
            write_data_card(folder, manifest, total)
        write_unreadable(folder, left_out)
    return out


def _parted(pairs: PairDataset, images: Container[str]) -> tuple[PairDataset, PairDataset]:
    """Split a table into images outside and inside a list, each with their pairs."""
    found = np.fromiter((i in images for i in pairs.images.ids), bool, len(pairs.images))
    return pairs.piece(np.flatnonzero(~found)), pairs.piece(np.flatnonzero(found))
