"""The pairs folder: `captions.jsonl` with one image per line, and images by relative path."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec
import numpy as np

from mmpoison._version import __version__
from mmpoison.base.files import atomic_folder, front_matter, without_front_matter
from mmpoison.base.registry import check_name
from mmpoison.base.text import one_line
from mmpoison.base.untrusted import (
    MAX_LINE_BYTES,
    LeftOut,
    bounded_lines,
    open_bytes,
    parse_json,
    read_text,
)
from mmpoison.errors import InputError
from mmpoison.images.containers import split_container
from mmpoison.images.sources import NameClash, cached_image, file_name, image_bytes, image_path
from mmpoison.pairs.builder import ImageEntry, PairRows
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import CAPTION_COLUMNS, PairDataset, is_own_captions, own_keys

# -- Writes the card of a poisoned data set: a README.md in Hugging Face's format, with a warning first.


CARD_FILE = "README.md"
MARK = "<!-- card of a poisoned set, by mmpoison -->"
"""Distinguishes a card from the data owner's README."""

HEADING = "## The README of the clean data"

MOST_README = 1 << 20
"""Largest README, in bytes, that is repeated in a card."""

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


def data_card(manifest: PoisonManifest, pairs: int, readme: str = "") -> str:
    """Return the card of a poisoned set, as Markdown.

    Args:
        manifest: The manifest of the poison.
        pairs: Number of pairs in the set.
        readme: The README of the clean data, which is repeated below.
    """
    template = resources.files("mmpoison.pairs").joinpath("data_card.md").read_text("utf-8")
    card = template.format(
        mark=MARK,
        version=manifest.tool_version or __version__,
        manifest=manifest,
        goals=", ".join(f"`{goal}`" for goal in manifest.goals),
        poisoned=len(manifest.pairs),
        filtered="\n- a filter went through it: not all of its poison is left"
        if manifest.filtered
        else "",
    )
    if readme.strip():
        card += f"\n{HEADING}\n\n{without_front_matter(readme).rstrip()}\n"
    head = front_matter(
        True, task_categories=["image-to-text"], size_categories=[_size_category(pairs)]
    )
    return head + card


def write_data_card(folder: Path, manifest: PoisonManifest, pairs: int) -> None:
    """Write a poisoned set's card into its folder. It repeats an existing README of the clean data.

    An existing card, from the set that this one was made from, is replaced.
    """
    file = folder / CARD_FILE
    try:
        readme = read_text(file, MOST_README) if file.is_file() else ""
    except InputError:
        readme = ""  # no text, or a book
    if MARK in readme:
        readme = readme.partition(f"\n{HEADING}\n")[2]
    file.write_text(data_card(manifest, pairs, readme), encoding="utf-8")


def _size_category(pairs: int) -> str:
    """Return the hub's name for a number of rows.

    >>> _size_category(999), _size_category(1000), _size_category(10**12)
    ('n<1K', '1K<n<10K', '100M<n<1B')
    """
    return _SIZES[min(max(len(str(pairs)) - 3, 0), len(_SIZES) - 1)]


CAPTIONS_FILE = "captions.jsonl"
MANIFEST_FILE = "manifest.json"

# Files about the origin of the data are copied with the table.
NOTICE_FILES = ("README.md", "attribution.txt", "LICENSE")

RESERVED = {CAPTIONS_FILE, MANIFEST_FILE, *NOTICE_FILES}
"""Names that no image of a pairs folder may have."""

LINE_KEYS = ("image", "captions", "label", "split", "categories", CAPTION_COLUMNS)
"""Keys of a line that mmpoison uses; others are the user's own columns."""

ImagePolicy = Literal["link", "copy", "none"]


class ManifestMisfit(InputError):
    """Raised if a set's manifest is broken or belongs to another set.

    Attributes:
        pairs: The set, without poison marks.
    """

    def __init__(self, message: str, pairs: PairDataset) -> None:
        super().__init__(message)
        self.pairs = pairs


def load_pairs_folder(path: str | Path) -> PairDataset:
    """Load a pairs folder.

    Args:
        path: Folder with `captions.jsonl` (and `manifest.json` if the set is poisoned).

    Returns:
        The pairs in file order, with poisoned pairs marked by the manifest in the folder.

    Raises:
        ManifestMisfit: If the manifest is broken or does not describe the pairs.
        InputError: If the folder or file is missing, a line is broken, a path leaves the folder, or an image occurs
            twice.
    """
    return table_of(open_pairs_folder(Path(path)))


def open_pairs_folder(
    folder: Path,
    *,
    images: str | Path | None = None,
    strict: bool = True,
    own_columns: bool = False,
) -> PairRows:
    """Open a pairs folder.

    Args:
        folder: As for `load_pairs_folder`, or a `.jsonl` file of the same form.
        images: Base folder of the relative image paths; the pairs folder itself by default.
        strict: Refuse the whole set for one broken line; otherwise skip the line and report it in `problems`.
        own_columns: Also read keys that mmpoison does not use, so that `save_pairs` can write them again.
    """
    home, file = captions_file(folder)
    entries = (
        _entry(raw, f"{file} line {number}", number, own_columns)
        for number, raw in numbered_lines(folder)
    )
    root = home if images is None else Path(images)
    return PairRows(root, entries, str(file), strict=strict, folder=home, files=[file.name])


def captions_file(place: Path) -> tuple[Path, Path]:
    """Return the base folder of image paths and the captions file. `place` may be either."""
    is_file = place.suffix == ".jsonl" and place.is_file()
    return (place.parent, place) if is_file else (place, place / CAPTIONS_FILE)


def count_images(path: str | Path) -> int:
    """Count the lines of `captions.jsonl` without parsing, for progress bars."""
    return sum(1 for _ in numbered_lines(Path(path)))


def save_pairs(
    pairs: PairDataset,
    out: str | Path,
    *,
    images: ImagePolicy = "link",
) -> Path:
    """Write a self-contained pairs folder.

    Args:
        pairs: The set to write, with all images of its table.
        out: New folder, written under a temporary name and renamed.
        images: `link` creates hard links (a copy if the file system cannot link), `copy` copies, `none` writes only the
            table. Images inside tar, Parquet or Arrow files become separate files with new ids.

    Raises:
        InputError: If `out` is not empty or an image is missing.
    """
    check_name("out", out)
    target = Path(out)
    with atomic_folder(target) as folder:
        root = pairs.root
        with (folder / CAPTIONS_FILE).open("w", encoding="utf-8") as stream:
            pairs = append_pairs(pairs, folder, stream, images)
        if pairs.manifest is not None:
            pairs.manifest.write(folder / MANIFEST_FILE)
        copy_notices(root, folder)
        if pairs.manifest is not None:
            write_data_card(folder, pairs.manifest, len(pairs))
    return target


def append_pairs(
    pairs: PairDataset, folder: Path, stream: TextIO, images: ImagePolicy
) -> PairDataset:
    """Write lines and images of a set, or of a piece, into an unfinished folder.

    Args:
        pairs: The set, with all images of its table.
        folder: Folder for the images.
        stream: `captions.jsonl`, open for writing.
        images: As in `save_pairs`.

    Returns:
        The pairs with the ids of the written images.

    Raises:
        InputError: If an image is missing or its name is taken.
    """
    if images != "none":
        ids = [
            place_image(pairs.root, str(image_id), folder, copy=images == "copy")
            for image_id in pairs.images.ids
        ]
        if ids != list(pairs.images.ids):
            pairs = rename_images(pairs, ids, pairs.root)
    for line in pairs.lines(own_columns=True):
        stream.write(line_text(line))
    return pairs


def place_image(root: Path, image_id: str, folder: Path, *, copy: bool) -> str:
    """Put one image into a folder.

    Args:
        root: Folder that the id is relative to.
        image_id: An image file, or an image inside a tar, Parquet or Arrow file, which becomes a file.
        folder: Destination folder; files keep their relative path.
        copy: Copy the file; otherwise create a hard link if the file system supports it.

    Returns:
        Its new id.

    Raises:
        InputError: If it is missing, points outside the root, or would take the place of a file of the data set.
        NameClash: If another image of the set has its name.
    """
    inner = split_container(root, image_id)
    data = b"" if inner is None else image_bytes(root, image_id)
    name = image_id if inner is None else file_name(*inner, data)
    if Path(name).parts[0] in RESERVED:
        raise InputError(
            f"{root / image_id}: an image cannot have the name {name!r}: a file of the data set has it"
        )
    target = folder / name
    clash = NameClash(f"{root / image_id}: another image of the source has the name {name!r}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise clash from None  # one image has the name of another image's folder
    try:
        if inner is not None:
            with target.open("xb") as made:
                made.write(data)
            return name
        # link the file itself, not a symbolic link to it
        source = image_path(root, image_id).resolve()
        # changing a link would change the cached file
        if not copy and cached_image(root, image_id) is None:
            try:
                os.link(source, target)
                return name
            except (FileNotFoundError, FileExistsError):
                raise
            except OSError:
                pass  # a different file system, or one without links
        with source.open("rb") as original, target.open("xb") as made:
            shutil.copyfileobj(original, made)
    except FileExistsError:
        raise clash from None
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{root / image_id}: no such image") from None
    return name


def line_text(line: Mapping[str, Any]) -> str:
    """Write one line of `captions.jsonl`.

    Raises:
        InputError: If the line exceeds the limit for reading.
    """
    text = json.dumps(line, ensure_ascii=True) + "\n"
    if len(text) > MAX_LINE_BYTES:
        raise InputError(
            f"image {line['image']!r:.200}: its captions take {len(text):,} bytes on a line of {CAPTIONS_FILE}, "
            f"at most {MAX_LINE_BYTES:,} are allowed: remove some"
        )
    return text


def copy_notices(root: Path, folder: Path) -> None:
    """Copy files about the origin of images, if the folder has them."""
    for name in NOTICE_FILES:
        if (root / name).is_file() and not (root / name).is_symlink():
            shutil.copyfile(root / name, folder / name)


def is_poisoned(folder: Path) -> bool:
    """Check whether a folder has a manifest."""
    return (folder / MANIFEST_FILE).is_file()


def table_of(rows: PairRows) -> PairDataset:
    """Read all rows as one table, with poison marked if there is a manifest.

    Raises:
        ManifestMisfit: If the manifest is broken or does not describe the pairs.
        InputError: If nothing is usable.
    """
    return rows.table() if rows.folder is None else with_manifest(rows.table(), rows.folder)


def pieces_of(rows: PairRows, images: int) -> Iterator[PairDataset]:
    """Read rows in pieces of at most a given number of images, in constant memory.

    Raises:
        InputError: As `table_of`; also for a poisoned set, because a piece cannot identify its poisoned pairs.
    """
    if rows.folder is not None and is_poisoned(rows.folder):
        raise InputError(
            f"{rows.folder}: is a poisoned set ({MANIFEST_FILE}), which can only be read as a whole (load_pairs)"
        )
    yield from rows.pieces(images)


def with_manifest(pairs: PairDataset, folder: Path) -> PairDataset:
    """Mark poisoned pairs if their folder has a `manifest.json`, so that poison stays marked in every format.

    Raises:
        ManifestMisfit: If the manifest is broken or does not describe the pairs.
    """
    file = folder / MANIFEST_FILE
    if not file.exists():
        return pairs
    try:
        return apply_manifest(pairs, PoisonManifest.read(file))
    except InputError as error:
        raise ManifestMisfit(str(error), pairs) from None


def apply_manifest(pairs: PairDataset, manifest: PoisonManifest) -> PairDataset:
    """Mark the poisoned pairs of a manifest.

    Raises:
        InputError: If a poisoned pair of the manifest is missing from the pairs.
    """
    index = {image_id: i for i, image_id in enumerate(pairs.images.ids)}
    slots = pairs.rows_by_caption({index.get(e.poisoned_image, -1) for e in manifest.pairs})
    source = pairs.source.copy()
    for entry in manifest.pairs:
        rows = slots.get((index.get(entry.poisoned_image, -1), entry.caption))
        if not rows or entry.clean_image not in index:
            raise InputError(
                f"{MANIFEST_FILE}: the poisoned pair {entry.caption[:60]!r} with "
                f"{entry.poisoned_image!r:.200} is not in the pairs: manifest and captions differ"
            )
        # poison follows an image's own captions, so the last of equal captions is the poisoned one
        source[rows.pop()] = index[entry.clean_image]
    return replace(pairs, source=source, manifest=manifest)


def restore_clean(pairs: PairDataset) -> PairDataset:
    """Remove the poison of a set with a manifest: exact for `add`; for `replace`, exact up to the order of captions.

    Raises:
        InputError: If the set has no manifest, or the attack dropped other pairs, which are lost.
    """
    if pairs.manifest is None:
        raise InputError("the set has no manifest, there is nothing to undo")
    if pairs.manifest.dropped_images:
        raise InputError(
            f"clean pairs of {len(pairs.manifest.dropped_images)} images were dropped by the attack: "
            "the set alone does not say what they were"
        )
    if pairs.manifest.mode == "add":
        clean = pairs.where(~pairs.poisoned)
    else:
        clean = PairDataset.build(pairs.images, pairs.captions, pairs.source)
    if added := pairs.manifest.added_images:
        given = [index for index, name in enumerate(pairs.images.ids) if name not in added]
        clean = clean.piece(given)
    return PairDataset.build(clean.images, clean.captions, clean.image)


def rename_images(pairs: PairDataset, ids: Sequence[str], root: Path) -> PairDataset:
    """Rename images in a set and in its manifest, which thus still describes the set.

    Args:
        pairs: Any set.
        ids: New ids of the images, shape `(I,)`.
        root: The folder they are relative to.

    Returns:
        The set with the new ids. Its manifest has the new names and both sets' new fingerprints. If clean pairs are
        missing (because of a filter or the attack), the clean set is unknown, and its old fingerprint stays.
    """
    table = pairs.images
    new = np.empty(len(table), dtype=object)
    new[:] = list(ids)
    renamed = replace(pairs, images=replace(table, ids=new, root=root))
    manifest = pairs.manifest
    if manifest is None or list(ids) == list(table.ids):
        return renamed
    names = dict(zip(table.ids, ids, strict=True))
    entries = tuple(
        replace(
            entry,
            clean_image=names[entry.clean_image],
            poisoned_image=names[entry.poisoned_image],
        )
        for entry in manifest.pairs
    )
    own = manifest.fingerprint
    described = replace(
        manifest,
        pairs=entries,
        fingerprint=renamed.fingerprint if own == pairs.fingerprint else own,
        target_images={goal: names[image] for goal, image in manifest.target_images.items()},
        dropped_images=tuple(names[image] for image in manifest.dropped_images),
        added_images={
            names[image]: replace(new, made_from=names[new.made_from])
            for image, new in manifest.added_images.items()
        },
    )
    renamed = replace(renamed, manifest=described)
    known = manifest.filtered is None and not manifest.dropped_images
    if known and (
        manifest.mode == "replace" or restore_clean(pairs).fingerprint == manifest.clean_fingerprint
    ):
        clean = restore_clean(renamed).fingerprint
        renamed = replace(renamed, manifest=replace(described, clean_fingerprint=clean))
    return renamed


def numbered_lines(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-blank lines of a pairs folder, numbered from 1."""
    home, file = captions_file(folder)
    if not home.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not file.is_file():
        raise InputError(f"{folder}: has no {CAPTIONS_FILE}, so it is not a pairs folder")
    with open_bytes(file) as stream:
        for number, raw in enumerate(bounded_lines(stream, file), start=1):
            if raw.strip():
                yield number, raw


class _Line(msgspec.Struct):
    """One line of `captions.jsonl`, without the user's own columns."""

    image: str
    captions: list[str]
    label: str | None = None
    split: str = "train"
    categories: list[str] = []


def _entry(raw: bytes, where: str, number: int, own_columns: bool) -> ImageEntry | str:
    try:
        value = parse_json(raw, where)
        line = msgspec.convert(value, _Line)
    except msgspec.ValidationError as error:
        return f"{where}: {one_line(str(error))[:200]}"
    except InputError as error:
        return str(error)
    problems: tuple[str, ...] = ()
    own_captions = value.get(CAPTION_COLUMNS) if own_columns else None
    if not is_own_captions(own_captions):
        said = f"{where}: {CAPTION_COLUMNS!r} must be a list of objects, so it is ignored"
        problems = (LeftOut(said, 0),)
        own_captions = None
    return ImageEntry(
        line.image,
        line.captions,
        where,
        line.label,
        line.split,
        line.categories,
        alone=True,
        problems=problems,
        own=own_keys(value, LINE_KEYS) if own_columns else None,
        own_captions=own_captions,
        at=[(0, number, place) for place in range(len(line.captions))],
    )
