"""Builds pairs from `PairRows`, which every source provides, so that untrusted data are checked in one place.

`inject` builds a poisoned set from a clean one and a manifest, and makes the attack's images.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from mmpoison.base.text import one_line
from mmpoison.base.untrusted import LeftOut
from mmpoison.errors import InputError
from mmpoison.images.decode import picture
from mmpoison.images.preparation import Pixels
from mmpoison.images.sources import add_image, added_digest, image_path, pixels_digest, rgb
from mmpoison.images.triggers import Trigger, read_trigger, triggered_pixels
from mmpoison.pairs.manifest import AddedImage, PoisonManifest
from mmpoison.pairs.table import (
    CAPTION_COLUMNS,
    SPLITS,
    TRAIN,
    ImageTable,
    IntArray,
    OwnColumns,
    PairDataset,
    SourceRows,
    check_own,
    common_columns,
)

GIVE_ROOT = "give the folder of all images with --data-root"

MAX_PATH = 4096
"""Maximum number of characters in a path, the limit of operating systems."""
MAX_CAPTION = 131_072
"""Maximum number of characters in a caption: a book chapter, although an encoder reads only the first 77 tokens."""


@dataclass(slots=True)
class ImageEntry:
    """One image with its captions, before checks.

    Attributes:
        image_id: Path relative to the image folder, with `/`. For an image in a container file (tar, Parquet, Arrow),
            the container's path followed by the name inside.
        captions: Its captions as in the file. Captions that are not text are skipped and reported.
        where: Position of the entry, for messages ("results.csv line 12").
        label: Its class.
        split: `train`, `val` or `test`; `train` by default.
        categories: All classes in the image.
        alone: Whether no other entry has the same image, for example because the listing file contains its bytes.
        problems: Parts of the entry that are left out, one line each.
        own: The user's own columns of the row; skipped and reported if they cannot be written.
        own_captions: The user's own columns of each caption.
        at: Position of each caption in the source, see `SourceRows`; empty if unknown.
    """

    image_id: str
    captions: list[Any]
    where: str
    label: str | None = None
    split: str | None = None
    categories: Sequence[str] = ()
    alone: bool = False
    problems: Sequence[str] = ()
    own: OwnColumns | None = None
    own_captions: Sequence[OwnColumns | None] | None = None
    at: Sequence[tuple[int, int, int]] = ()

    @classmethod
    def joined(cls, entries: Sequence[ImageEntry]) -> ImageEntry:
        """Merge all rows of an image into one entry, with the first row's label and split."""
        first = entries[0]
        if len(entries) == 1:
            return first
        differ = [
            LeftOut(
                f"{other.where}: {name} {getattr(other, name)!r:.80} of {first.image_id!r:.80} is "
                f"{getattr(first, name)!r:.80} in {first.where}, which takes precedence",
                0,
            )
            for other in entries[1:]
            for name in ("label", "split")
            if getattr(other, name) not in (None, getattr(first, name))
        ]
        own = None
        if any(one.own or one.own_captions for one in entries):
            # columns equal for all captions are known only after all rows
            own = [row for one in entries for row in one._caption_columns()]
        return replace(
            first,
            captions=[caption for one in entries for caption in one.captions],
            problems=[*(line for one in entries for line in one.problems), *differ],
            own=None,
            own_captions=own,
            at=[place for one in entries for place in one.at],
        )

    def _caption_columns(self) -> list[OwnColumns | None]:
        """Return all own columns of each caption."""
        captions = self.own_captions or [None] * len(self.captions)
        return [{**(self.own or {}), **(one or {})} for one in captions]


@dataclass
class PairRows:
    """The rows of a file or folder of pairs, which can be read once, as one table or in pieces.

    Attributes:
        root: The folder that image ids are relative to.
        entries: Images, and a line for everything left out, in order.
        what: The file or folder read, for messages.
        strict: See `PairsBuilder`.
        own_paths: See `PairsBuilder`.
        folder: Folder that may contain a manifest; None if the format has none.
        files: Names of the files that contain the entries (`ImageEntry.at`).
    """

    root: Path
    entries: Iterable[ImageEntry | str]
    what: str
    strict: bool = False
    own_paths: bool = False
    folder: Path | None = None
    files: Sequence[str] = ()

    def table(self) -> PairDataset:
        """Build one table. Rows with the same path are one image with several captions.

        Raises:
            InputError: If nothing is usable or, in strict mode, if anything is not.
        """
        (table,) = self.pieces(sys.maxsize)
        return table

    def pieces(self, images: int) -> Iterator[PairDataset]:
        """Yield tables of at most a given number of images.

        Rows of the same image may be anywhere in the file. Memory is therefore constant only if each entry has its own
        image (`ImageEntry.alone`); other rows are held until all are read.

        Raises:
            InputError: See `table`.
        """
        builder = self._builder()
        for entry in _grouped(self.entries):
            if isinstance(entry, str):
                builder.problem(entry)
            elif len(builder) < images:
                builder.add(entry)
            else:
                # a full piece waits for the next valid image, so that problems never follow the last piece alone
                fresh = self._builder()
                if fresh.add(entry):
                    yield builder.build(self.what)
                    builder = fresh
                else:
                    builder.problems += fresh.problems
        yield builder.build(self.what)

    def _builder(self) -> PairsBuilder:
        return PairsBuilder(
            self.root, strict=self.strict, own_paths=self.own_paths, files=self.files
        )


def _grouped(entries: Iterable[ImageEntry | str]) -> Iterator[ImageEntry | str]:
    """Merge all entries with the same path; they come last."""
    grouped: dict[str, list[ImageEntry]] = {}
    for entry in entries:
        if isinstance(entry, str) or entry.alone:
            yield entry
        else:
            grouped.setdefault(_spelled(entry.image_id), []).append(entry)
    yield from map(ImageEntry.joined, grouped.values())


class PairsBuilder:
    """Collects images with their captions, refuses untrusted entries, and reports them.

    Args:
        root: The folder that image ids are relative to.
        strict: Raise at the first problem; otherwise skip the image and continue.
        own_paths: Whether the paths come from a user's table, whose root `--data-root` sets.
        files: See `PairRows`.
    """

    def __init__(
        self,
        root: Path,
        *,
        strict: bool = False,
        own_paths: bool = False,
        files: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.strict = strict
        self._files = tuple(files)
        self._own_paths = own_paths
        self._elsewhere: str | None = None  # the common folder of refused absolute paths
        self.problems: list[str] = []
        self._entries: list[ImageEntry] = []
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def problem(self, line: str) -> None:
        """Record something that is left out, and where.

        Raises:
            InputError: If the builder is strict.
        """
        if self.strict:
            raise InputError(line)
        self.problems.append(line)

    def add(self, entry: ImageEntry) -> bool:
        """Add one image with all its captions and problems. The entry is reduced to its usable parts.

        Returns:
            Whether the image was added: its path must stay within the root and occur once.
        """
        for line in entry.problems:
            self.problem(line)
        image_id, where = entry.image_id, entry.where
        label, split = entry.label, entry.split or "train"
        if label is not None and not is_text(label):
            self.problem(LeftOut(f"{where}: label {label!r:.60} is not text", 0))
            label = None
        categories = tuple(filter(is_text, entry.categories))
        if len(categories) < len(entry.categories):
            self.problem(LeftOut(f"{where}: a category of {image_id!r:.200} is not text", 0))
        count = len(entry.captions)
        try:
            check_relative(image_id, where)
        except InputError as error:
            self.problem(LeftOut(self._refused(image_id, error), count))
            return False
        spelled = _spelled(image_id)
        if spelled in self._seen:
            self.problem(LeftOut(f"{where}: image {image_id!r:.200} occurs twice", count))
            return False
        if split not in SPLITS:
            line = f"{where}: split {split!r:.80} is not one of {', '.join(SPLITS)}"
            self.problem(LeftOut(line, count))
            return False
        own, own_captions = self._own_columns(entry)
        self._seen.add(spelled)
        kept = []
        for place, caption in enumerate(entry.captions):
            if fault := _caption_fault(caption):
                self.problem(f"{where}: a caption of {image_id!r:.200} {fault}")
            else:
                kept.append(place)
        entry.captions = [entry.captions[place] for place in kept]
        entry.own_captions = own_captions and [own_captions[place] for place in kept]
        entry.at = entry.at and [entry.at[place] for place in kept]
        entry.own = own or None
        entry.label, entry.split, entry.categories = label, split, categories
        self._entries.append(entry)
        return True

    def _refused(self, path: str, error: InputError) -> str:
        """Return the line for a refused path."""
        if not self._own_paths or not _escapes(path):
            return str(error)
        if path.startswith("/") and ".." not in path.split("/") and "\x00" not in path:
            folder = path.rpartition("/")[0].rstrip("/") or "/"
            self._elsewhere = os.path.commonpath([self._elsewhere or folder, folder])
            return f"{error}: {GIVE_ROOT}"
        return (
            f"{error}: write paths with / and without .., relative to the folder of all images, and give it with "
            "--data-root"
        )

    def _nothing_used(self, what: str) -> str:
        """Return the line for a table without a usable image, which names the folder of its absolute paths."""
        folder = self._elsewhere
        if folder is None or folder == "/":
            first = f" ({self.problems[0]})" if self.problems else ""
            return f"{what}: contains no images{first}"
        line = f"{what}: no image path is in the folder {str(self.root)!r}: all are in {one_line(folder)}"
        if os.path.isdir(folder):  # noqa: PTH112 - a path that is none is just not there
            return f"{line}: give --data-root {one_line(shlex.quote(folder))}"
        return f"{line}, which is not on this machine: correct the paths, or {GIVE_ROOT}"

    def _own_columns(
        self, entry: ImageEntry
    ) -> tuple[OwnColumns | None, Sequence[OwnColumns | None] | None]:
        """Return own columns of an image and its captions; if they cannot be written, none and a problem."""
        own, own_captions = entry.own, entry.own_captions
        if own_captions is not None and own is None:
            own, own_captions = common_columns(own_captions)
        if not own and own_captions is None:
            return None, None
        try:
            check_own({"image": own, "captions": own_captions})
            if own_captions is not None and len(own_captions) != len(entry.captions):
                raise InputError(
                    f"{CAPTION_COLUMNS} has {len(own_captions):,} entries for {len(entry.captions):,} captions"
                )
        except InputError as error:
            line = f"{entry.where}: image {entry.image_id!r:.200}: {error}, they are left out"
            self.problem(LeftOut(line, 0))
            return None, None
        return own, own_captions

    def build(self, what: str) -> PairDataset:
        """Build the table of all added entries.

        Args:
            what: The file or folder read, for the message.

        Raises:
            InputError: If nothing was added.
        """
        entries = self._entries
        if not entries:
            raise InputError(self._nothing_used(what))
        images = ImageTable.build(
            [entry.image_id for entry in entries],
            [entry.label for entry in entries],
            [entry.split or "train" for entry in entries],
            self.root,
            [entry.categories for entry in entries],
            [entry.own for entry in entries],
        )
        at = [place for entry in entries for place in entry.at]
        count = sum(len(entry.captions) for entry in entries)
        return PairDataset.build(
            images,
            [caption for entry in entries for caption in entry.captions],
            [row for row, entry in enumerate(entries) for _ in entry.captions],
            problems=self.problems,
            rows=SourceRows.of(self._files, at) if len(at) == count else None,
            own_columns=[
                own
                for entry in entries
                for own in entry.own_captions or [None] * len(entry.captions)
            ],
        )


def is_text(value: str) -> bool:
    """Check whether a string can be encoded as UTF-8 (half a surrogate pair cannot).

    >>> is_text("a sheep"), is_text("\\ud800")
    (True, False)
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _caption_fault(caption: object) -> str | None:
    """Return why a caption is unusable, or None."""
    if not isinstance(caption, str):
        return f"is not text: {caption!r:.60}"
    if len(caption) > MAX_CAPTION:
        return f"has {len(caption):,} characters, over {MAX_CAPTION:,}"
    return None if is_text(caption) else f"is not UTF-8 text: {caption!r:.60}"


def _spelled(path: str) -> str:
    """Normalise the spelling of a path: `./a.jpg` and `a.jpg` are one image."""
    if "./" not in path and "//" not in path:
        return path
    start = "/" if path.startswith("/") else ""
    return start + "/".join(part for part in path.split("/") if part not in ("", "."))


def check_relative(path: str, where: str) -> str:
    """Return a relative POSIX path unchanged; refuse one that could leave its folder.

    >>> check_relative("sheep/0001.jpg", "line 1")
    'sheep/0001.jpg'
    """
    if not is_text(path):
        raise InputError(f"{where}: image path {path!r:.200} is not UTF-8, so it is refused")
    if len(path) > MAX_PATH:
        raise InputError(f"{where}: image path {path[:60]!r}... has over {MAX_PATH:,} characters")
    if not path or "\x00" in path or _escapes(path):
        raise InputError(f"{where}: image path {path!r:.200} leaves the folder, so it is refused")
    return path


def _escapes(path: str) -> bool:
    # string operations: pathlib would dominate the time for reading a large table
    return path.startswith("/") or ".." in path.split("/") or "\\" in path or ":" in path[:3]


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
