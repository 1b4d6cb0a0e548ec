"""Writes the pairs that a scan leaves as a pairs folder, with the manifest of what poison is still among them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.files import atomic_folder
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.defenses.scan.read.unreadable import write_unreadable
from mmpoison.pairs.folder import (
    CAPTIONS_FILE,
    MANIFEST_FILE,
    ImagePolicy,
    append_pairs,
    copy_notices,
    write_data_card,
)
from mmpoison.pairs.table import BoolArray, PairDataset


def save_kept(
    pieces: PairPieces,
    keep: BoolArray,
    facts: Mapping[str, Any],
    out: Path,
    *,
    split: str = "train",
    images: ImagePolicy = "link",
) -> Path:
    """Write the pairs that stay, and the pairs that were not judged, as a pairs folder.

    Where the poison is known the manifest is copied, reduced to the poisoned pairs that stay.
    Images that `pieces` leaves out are left out with all their pairs and named in `unreadable.jsonl`.

    Args:
        pieces: The set.
        keep: Verdict for each judged pair in the order of the stream, shape `(N,)`.
        facts: What a manifest will say of the scan.
        out: New folder.
        split: Which pairs were judged.
        images: As in `save_pairs`.

    Raises:
        InputError: If `out` holds something already.
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
                # an image that the manifest still names keeps its line: no caption, no file
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
    """Split a table into the images outside a list, and those in it, each with their pairs."""
    found = np.fromiter((i in images for i in pairs.images.ids), bool, len(pairs.images))
    return pairs.piece(np.flatnonzero(~found)), pairs.piece(np.flatnonzero(found))
