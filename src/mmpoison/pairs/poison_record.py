"""Applies a manifest to pairs: creates the attack's images, and injects the poisoned pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.errors import InputError
from mmpoison.images.decode import picture
from mmpoison.images.preparation import Pixels
from mmpoison.images.sources import add_image, added_digest, image_path, pixels_digest, rgb
from mmpoison.images.triggers import Trigger, read_trigger, triggered_pixels
from mmpoison.pairs.manifest import AddedImage, PoisonManifest
from mmpoison.pairs.table import TRAIN, ImageTable, IntArray, PairDataset

# -- Images added by an attack: created from clean images, listed in the manifest, and recreated from it.


def new_image(
    pixels: Pixels, made_from: str, how: Mapping[str, Any] | None = None
) -> tuple[str, AddedImage]:
    """Store an image created by an attack; return its id and its manifest entry.

    Args:
        pixels: RGB, shape `(height, width, 3)`.
        made_from: Id of the clean image that it was created from.
        how: What the manifest's trigger needs to recreate it; None if only a copy has the same pixels.

    Raises:
        InputError: If the cache cannot be written.
    """
    return add_image(pixels), AddedImage(made_from, pixels_digest(pixels), dict(how or {}))


def restore_new_images(
    root: Path, manifest: PoisonManifest, poisoned_folder: Path | None = None
) -> None:
    """Restore all images created by the attack: recreate or copy those that are missing.

    Args:
        root: Folder of the clean set.
        manifest: The manifest of the set.
        poisoned_folder: Folder of the poisoned set, if available, from which images are copied that cannot be
            recreated.

    Raises:
        InputError: If an image can be neither recreated nor found, or its pixels differ from the manifest.
    """
    trigger = None if manifest.trigger is None else read_trigger(manifest.trigger)
    for name, new in manifest.added_images.items():
        if image_path(root, name).is_file():
            continue
        made = None if trigger is None else made_again(root, new, trigger)
        if made is None and poisoned_folder is not None and (poisoned_folder / name).is_file():
            # its pixels are checked against its id
            with picture(poisoned_folder, name) as image:
                made = rgb(image)
        if made is None:
            reason = (
                "the attack's new images cannot be computed from the manifest"
                if trigger is None
                else f"{new.made_from!r:.100} with the trigger has other pixels here"
            )
            raise InputError(
                f"{name}: {reason}: read the manifest in the folder of the poisoned set, which has the image"
            )
        add_image(made)


def made_again(root: Path, new: AddedImage, trigger: Trigger) -> Pixels | None:
    """Recreate an image from its clean image; return None if its pixels differ from the manifest.

    Args:
        root: Folder of the set.
        new: The image's entry in the manifest; `made_from` must be an image of the set.
        trigger: The manifest's trigger.

    Raises:
        InputError: If the clean image cannot be read, or `new.how` belongs to another trigger.
    """
    pixels = triggered_pixels(root, new.made_from, trigger, new.how)
    return pixels if pixels_digest(pixels) == new.pixels else None


def inject(clean: PairDataset, manifest: PoisonManifest) -> PairDataset:
    """Inject the listed poison into the clean set.

    Images created by the attack become the last rows of the table, in manifest order.

    In the mode `replace`, the clean pair of each poisoned pair is removed. If an image has the same caption several
    times, the first is removed, so the result does not depend on which one was drawn. Pairs with images created by the
    attack replace nothing by themselves; `dropped_images` lists the images that those images replace.

    Raises:
        InputError: If an image or clean pair in the manifest is missing from the set, or the id of a created image does
            not match its pixels.
    """
    images = with_added_images(clean.images, manifest.added_images)
    index = {image_id: place for place, image_id in enumerate(images.ids)}
    source = _places(index, [entry.clean_image for entry in manifest.pairs])
    image = _places(index, [entry.poisoned_image for entry in manifest.pairs])
    captions = [entry.caption for entry in manifest.pairs]
    kept = np.ones(len(clean), dtype=bool)
    if manifest.mode == "replace":
        given = [entry.poisoned_image not in manifest.added_images for entry in manifest.pairs]
        kept[_rows_of(clean, source[given], list(compress(captions, given)))] = False
    if manifest.dropped_images:
        dropped = _places(index, manifest.dropped_images)
        kept &= ~(np.isin(clean.image, dropped) & clean.in_split("train"))
    part = clean.where(kept)
    return PairDataset.build(
        images,
        [*part.captions, *captions],
        np.concatenate([part.image, image]),
        np.concatenate([part.source, source]),
        manifest,
        clean.problems,
    )


def with_added_images(table: ImageTable, added: Mapping[str, AddedImage]) -> ImageTable:
    """Add rows for images created by an attack: split train, otherwise like the clean images they come from.

    Raises:
        InputError: If an id does not match the pixels or is already in the table, or an image's clean image is not in
            the table.
    """
    if not added:
        return table
    index = {image_id: place for place, image_id in enumerate(table.ids)}
    for name, new in added.items():
        if added_digest(name) != new.pixels:
            raise InputError(
                f"added image {name!r:.100} of the manifest: the id does not name its pixels, so it is refused"
            )
        if name in index:
            raise InputError(
                f"added image {name!r:.100} of the manifest is in the clean set already"
            )
    origin = _places(index, [new.made_from for new in added.values()])
    larger = table.take(np.concatenate([np.arange(len(table)), origin]))
    ids, splits = larger.ids.copy(), larger.split_codes.copy()
    ids[len(table) :] = list(added)
    splits[len(table) :] = TRAIN
    own = None if larger.own_columns is None else larger.own_columns.copy()
    if own is not None:
        own[len(table) :] = None  # the user's own columns do not apply to an attacker's images
    return replace(larger, ids=ids, split_codes=splits, own_columns=own)


def _places(index: Mapping[str, int], ids: Collection[str]) -> IntArray:
    try:
        return np.fromiter((index[name] for name in ids), dtype=np.int32, count=len(ids))
    except KeyError as error:
        raise InputError(
            f"image {error.args[0]!r} of the manifest is not in the set: it was made from a different set"
        ) from None


def _rows_of(clean: PairDataset, source: IntArray, captions: Sequence[str]) -> IntArray:
    """Return the row of each requested (image, caption): the first, then the next one for each repetition."""
    slots = clean.rows_by_caption(source.tolist())
    rows: list[int] = []
    for place, caption in zip(source.tolist(), captions, strict=True):
        left = slots.get((place, caption))
        if not left:
            raise InputError(
                f"the pair {caption[:60]!r} with {clean.images.ids[place]!r} of the manifest is not in the set: "
                "it was made from a different set"
            )
        rows.append(left.pop(0))
    return np.array(rows, dtype=np.int32)
