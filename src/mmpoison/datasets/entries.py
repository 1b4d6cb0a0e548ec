"""Images of a data set as a file lists them, before they are checked and become a table of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpoison.pairs.builder import PairsBuilder, is_text
from mmpoison.pairs.own_columns import OwnColumns, common_columns
from mmpoison.pairs.table import PairDataset


@dataclass(slots=True)
class ImageEntry:
    """One image with its captions, before it is checked.

    Attributes:
        image_id: Path relative to the folder of the images.
        captions: Its captions as the file has them, maybe not text.
        where: Place of the entry, for messages.
        label: Its class.
        split: `train`, `val` or `test`; `train` where nothing says it.
        categories: Everything that is in the image.
        inside: Whether its bytes lie in the file that lists it, so that no other entry has the same image.
        problems: What is left out of the entry, a line each.
        own: The user's own columns of the row.
        own_captions: Those of each caption.
    """

    image_id: str
    captions: list[Any]
    where: str
    label: str | None = None
    split: str | None = None
    categories: Sequence[str] = ()
    inside: bool = False
    problems: Sequence[str] = ()
    own: OwnColumns | None = None
    own_captions: Sequence[OwnColumns | None] | None = None

    def caption_columns(self) -> list[OwnColumns | None]:
        """Return all own columns for each caption."""
        captions = self.own_captions or [None] * len(self.captions)
        return [{**(self.own or {}), **(one or {})} for one in captions]


def add_entries(entries: Iterable[ImageEntry | str], builder: PairsBuilder) -> None:
    """Put entries into a builder; rows with the same path are one image with several captions."""
    grouped: dict[str, ImageEntry] = {}
    for entry in entries:
        if isinstance(entry, str):
            builder.problem(entry)
        elif entry.inside:
            add_entry(entry, builder)
        elif (first := grouped.setdefault(entry.image_id, entry)) is not entry:
            join(first, entry)
    for entry in grouped.values():
        add_entry(entry, builder)


def pieces(
    entries: Iterable[ImageEntry | str], root: Path, images: int, *, own_paths: bool = False
) -> Iterator[PairDataset]:
    """Yield tables of a limited number of images; adjacent rows with the same path are one image.

    Args:
        entries: Images and problems, in order.
        root: The folder that image ids start from.
        images: The most images of a table.
        own_paths: As for `PairsBuilder`.
    """
    builder = PairsBuilder(root, own_paths=own_paths)
    for entry in _joined(entries):
        if isinstance(entry, str):
            builder.problem(entry)
        elif len(builder) < images:
            add_entry(entry, builder)
        else:
            # a full piece waits for the next sound image, so that problems never stand alone behind the last
            fresh = PairsBuilder(root, own_paths=own_paths)
            if add_entry(entry, fresh):
                yield builder.build(str(root))
                builder = fresh
            else:
                builder.problems += fresh.problems
    yield builder.build(str(root))


def _joined(entries: Iterable[ImageEntry | str]) -> Iterator[ImageEntry | str]:
    """Join adjacent entries with the same path."""
    last: ImageEntry | None = None
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        elif last is not None and not entry.inside and last.image_id == entry.image_id:
            join(last, entry)
        else:
            if last is not None:
                yield last
            last = entry
    if last is not None:
        yield last


def join(first: ImageEntry, other: ImageEntry) -> None:
    """Give the captions of a further row of the same image to its first row."""
    if first.own or first.own_captions or other.own or other.own_captions:
        # which are equal for all captions is seen when all rows are there
        first.own_captions = first.caption_columns() + other.caption_columns()
        first.own = None
    first.captions += other.captions
    for name in ("label", "split"):
        if getattr(other, name) not in (None, getattr(first, name)):
            line = (
                f"{other.where}: {name} {getattr(other, name)!r:.80} of {first.image_id!r:.80} is "
                f"{getattr(first, name)!r:.80} in {first.where}, which counts"
            )
            first.problems = (*first.problems, line)


def add_entry(entry: ImageEntry, builder: PairsBuilder) -> bool:
    """Put one image into a builder; says whether it was sound."""
    for line in entry.problems:
        builder.problem(line)
    label = entry.label
    if label is not None and not is_text(label):
        builder.problem(f"{entry.where}: label {label!r:.60} is not text")
        label = None
    own, own_captions = entry.own, entry.own_captions
    if own_captions is not None and own is None:
        own, own_captions = common_columns(own_captions)
    return builder.add(
        entry.image_id,
        entry.captions,
        label=label,
        split=entry.split or "train",
        categories=entry.categories,
        own=own,
        own_captions=own_captions,
        where=entry.where,
    )
