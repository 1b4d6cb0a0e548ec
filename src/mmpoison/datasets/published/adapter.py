"""Helpers for adapters of published data sets: image folders, missing images, options, splits by class."""

from __future__ import annotations

import mmap
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypedDict, TypeVar

import msgspec

from mmpoison.base.text import count_of
from mmpoison.base.untrusted import open_bytes, parse_json
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.formats.columns import split_name
from mmpoison.errors import InputError
from mmpoison.pairs.builder import ImageEntry, PairsBuilder, check_relative
from mmpoison.pairs.labels import categories_of, labels_of, splits_of
from mmpoison.pairs.splits import hash_order
from mmpoison.pairs.table import ImageTable, PairDataset

# -- Registers published data sets with the facts in `sets.json`: summary, origin, terms, parts.


_SETS: dict[str, dict[str, Any]] = parse_json(
    (resources.files(__package__) / "sets.json").read_text("utf-8"), "sets.json"
)


def register_published(
    name: str,
    load: Callable[..., PairDataset],
    recognise: Callable[[Path], str | None] | None = None,
    build: Callable[..., Path] | None = None,
) -> None:
    """Register a data set described in `sets.json`. Missing facts are those of the set `as`."""
    register(DataSource(name=name, load=load, recognise=recognise, build=build, **_described(name)))


def _described(name: str) -> dict[str, Any]:
    facts = dict(_SETS[name])
    other = facts.pop("as", None)
    facts = {**(_described(other) if other else {}), "download": "", **facts}
    return {**facts, "parts": tuple(facts.get("parts", ()))}


def needs(name: str) -> str:
    """Describe what a data set needs, for messages."""
    return f"{name} needs {_described(name)['where_from']}"


# -- Reads lists in large JSON files directly into small typed records, without building unneeded values.


T = TypeVar("T")

# a number with hundreds of digits is valid JSON, but not an id
Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

_BOM = b"\xef\xbb\xbf"
# a broken escape raises DecodeError, invalid UTF-8 raises UnicodeDecodeError
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def map_file(path: Path) -> memoryview:
    """Memory-map a file; the system reads pages when needed and can release them.

    Raises:
        InputError: If the file is missing, empty or unreadable.
    """
    with open_bytes(path) as stream:
        try:
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:
            raise InputError(f"{path}: is empty, expected JSON") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return data[len(_BOM) :] if data[: len(_BOM)] == _BOM else data


def decode_file(path: Path, kind: type[T]) -> T:
    """Decode a whole file as one typed value.

    Raises:
        InputError: If the file is missing, not JSON, or not of this type.
    """
    try:
        return msgspec.json.decode(map_file(path), type=kind)
    except _BROKEN as error:
        raise InputError(f"{path}: {broken_json(error)}") from None


def read_lists(
    path: Path, lists: Mapping[str, type[Any]], problem: Callable[[str], None]
) -> dict[str, list[Any]]:
    """Read the lists of a JSON object, each of records of one type.

    Args:
        path: The file: an object with at least these lists.
        lists: Name of each list, and the type of its entries.
        problem: Called with each entry of the wrong type.

    Returns:
        The lists by name. None replaces broken entries, so that positions match the file.

    Raises:
        InputError: If the file is missing, not JSON, or lacks a list.
    """
    whole = msgspec.defstruct("Whole", [(name, list[kind]) for name, kind in lists.items()])  # type: ignore[valid-type]
    try:
        found = msgspec.json.decode(map_file(path), type=whole)
        return {name: getattr(found, name) for name in lists}
    except _BROKEN:
        pass
    loose = decode_file(path, msgspec.defstruct("Loose", [(n, list[msgspec.Raw]) for n in lists]))
    decoders = {name: msgspec.json.Decoder(kind) for name, kind in lists.items()}
    return {
        name: [
            decode_entry(raw, decoder, f"{path.name} {name}[{index}]", problem)
            for index, raw in enumerate(getattr(loose, name))
        ]
        for name, decoder in decoders.items()
    }


def decode_entry(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[T], where: str, problem: Callable[[str], None]
) -> T | None:
    """Decode one entry as a typed record; return None and report a problem if it is broken."""
    try:
        return decoder.decode(raw)
    except _BROKEN as error:
        problem(f"{where}: {broken_json(error)}")
        return None


def broken_json(error: Exception) -> str:
    """Describe a JSON error in one line."""
    if isinstance(error, msgspec.ValidationError):
        return f"not in the expected form ({error})"
    # since 0.23 msgspec raises its own error for this
    if isinstance(error, UnicodeDecodeError) or "Invalid UTF-8" in str(error):
        return "not UTF-8"
    if isinstance(error, RecursionError):
        return "not valid JSON (brackets without end)"
    return f"not valid JSON ({error})"


Missing = Literal["skip", "keep"]


class ImageOptions(TypedDict, total=False):
    """Options that select the images of a published data set.

    Attributes:
        images: Folder of the images, if they are elsewhere.
        missing: `skip` (the default) leaves out entries whose image is not there and says so in one line, unless no
            folder of images is there at all: then the table is read by itself. `keep` keeps all.
    """

    images: str | Path | None
    missing: Missing


class PublishedFolder:
    """The folder of a published data set, during reading.

    Args:
        root: The folder, or one of its files.
        options: Options about its images.
        name: The data set.

    Attributes:
        folder: The data set's own folder.
        place: Folder that image ids are relative to: its own, or the user's.
        named: Whether the user gave it; missing images are then always reported.
        problems: Left-out entries, one line each.

    Raises:
        InputError: If there is no root, or no such folder of images.
    """

    def __init__(self, root: Path | None, options: ImageOptions, name: str) -> None:
        if root is None:
            raise InputError(needs(name))
        self.root = root
        self.folder = root if root.is_dir() else root.parent
        images = options.get("images")
        self.named = images is not None
        self.place = self.folder if images is None else Path(images)
        if self.named and not self.place.is_dir():
            raise InputError(f"{images}: no such image folder")
        self.missing: Missing = options.get("missing", "skip")
        self.problems: list[str] = []

    def file(self, name: str) -> Path:
        """Return a file in the folder, or the file given instead of the folder."""
        return self.root / name if self.root.is_dir() else self.root

    def problem(self, line: str) -> None:
        """Record something that is left out."""
        self.problems.append(line)

    def into_folder(self, entries: Iterable[ImageEntry], candidates: Sequence[str]) -> None:
        """Prefix bare file names with the image folder, unless the user gave one."""
        listed = list(entries)
        first = listed[0].image_id if listed else None
        prefix = "" if self.named else image_folder(self.place, candidates, first)
        for entry in listed:
            entry.image_id = prefix + entry.image_id

    def table(self, entries: Sequence[ImageEntry], what: str | Path) -> PairDataset:
        """Build the table of entries with an image. Labels and splits do not depend on which images exist.

        Args:
            entries: The images.
            what: The file or folder read, for messages.

        Raises:
            InputError: If no entry is left.
        """
        builder = PairsBuilder(self.place)
        builder.problems += self.problems
        absent = set() if self.missing == "keep" else _absent(self.place, entries, self.named)
        if absent:
            first = [entry.image_id for entry in entries if entry.image_id in absent]
            hint = (
                " (the option missing=keep keeps them, and data verify then names each)"
                if len(first) > 3
                else ""
            )
            builder.problem(
                f"{what}: {len(first):,} of {len(entries):,} images are not under {self.place}: "
                f"{some_names(first)}{hint}"
            )
        for entry in entries:
            if entry.image_id not in absent:
                entry.captions = _texts(entry, builder.problem)
                builder.add(entry)
        return builder.build(str(what))


def some_names(names: Sequence[str], most: int = 3) -> str:
    """List the first few names on one line.

    >>> some_names(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    'a.jpg, b.jpg, c.jpg, ...'
    """
    shown = [name if name.isprintable() else repr(name) for name in names[:most]]
    return ", ".join([*shown, "..."] if len(names) > most else shown)


def _texts(entry: ImageEntry, problem: Callable[[str], None]) -> list[Any]:
    texts: list[Any] = []
    for caption in entry.captions:
        text = caption.strip() if isinstance(caption, str) else caption
        if text == "":
            problem(f"{entry.where}: a caption of {entry.image_id!r} is empty")
        else:
            texts.append(text)
    return texts


def _absent(root: Path, entries: Sequence[ImageEntry], named: bool) -> set[str]:
    """Return the ids of missing images, or none if there is no image folder."""
    by_folder: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for entry in entries:
        try:
            check_relative(entry.image_id, entry.where)
        except InputError:
            continue  # the builder refuses it and reports its name
        path = PurePosixPath(entry.image_id)
        by_folder[str(path.parent)].append((entry.image_id, path.name))
    absent: set[str] = set()
    for folder, images in by_folder.items():
        # list the folder once instead of checking each of 100,000 images
        try:
            with os.scandir(root / folder) as listing:
                names = {found.name for found in listing}
        except OSError:
            names = None
        here = [image_id for image_id, name in images if names and name in names]
        # the root always exists, so it counts as an image folder only if it contains an image
        named = named or bool(here) or (names is not None and folder != ".")
        absent.update({image_id for image_id, _ in images}.difference(here))
    return absent if named else set()


def image_folder(root: Path, candidates: Sequence[str], name: str | None) -> str:
    """Return the first existing folder as a prefix of image ids; "" is the root itself.

    Args:
        root: Folder of the data set.
        candidates: Names of folders under it, likeliest first.
        name: File name of one image, to check whether images are in the same folder as the captions.
    """
    for folder in candidates:
        if (root / folder).is_dir():
            return f"{folder}/"
    try:
        in_root = name is not None and (root / name).is_file()
    except (OSError, ValueError):
        in_root = False
    return "" if in_root else f"{candidates[0]}/"


def split_per_class(entries: Sequence[ImageEntry], test_per_class: int | None, seed: int) -> None:
    """Take some images of each class for testing; the rest is for training.

    The choice equals that of `splits.split_per_class` with the same seed, over all entries, whether their image exists
    or not. Two people who lack different images thus get the same split.

    Args:
        entries: The images, whose `split` is set. Images without a label are for training.
        test_per_class: Test images per class, or None for half of them, rounded up.
        seed: Any whole number.

    Raises:
        InputError: If a class has too few images to leave one for training.
    """
    members: dict[str, list[ImageEntry]] = defaultdict(list)
    for entry in entries:
        entry.split = "train"
        if entry.label is not None:
            members[entry.label].append(entry)
    for label, images in members.items():
        tested = len(images) - len(images) // 2 if test_per_class is None else test_per_class
        if test_per_class is not None and tested >= len(images):
            raise InputError(
                f"data option test_per_class={tested}: class {label!r} has {count_of(len(images), 'image')}, which "
                "leaves none for training"
            )
        keys = [f"{label}/{entry.image_id.rpartition('/')[2]}" for entry in images]
        for position in hash_order(keys, seed, "split")[:tested]:
            images[position].split = "test"


def composed_folder(root: Path | None, name: str) -> Path:
    """Return the folder with the data sets that make up a combined set.

    Raises:
        InputError: If there is none.
    """
    if root is None or not root.is_dir():
        raise InputError(f"{root}: no such folder: {needs(name)}")
    return root


def composed(
    name: str, *parts: Callable[[Path, Missing], PairDataset]
) -> Callable[..., PairDataset]:
    """Create the loader of a set composed of others in folders under one root.

    Args:
        name: Its name, for messages.
        parts: Loaders of the parts, given the root and the treatment of missing images.
    """

    def load(root: Path | None, seed: int = 0, *, missing: Missing = "skip") -> PairDataset:
        folder = composed_folder(root, name)
        return join(folder, [part(folder, missing) for part in parts])

    return load


def join(root: Path, parts: Sequence[PairDataset]) -> PairDataset:
    """Combine sets in folders under one root; ids begin with each set's folder."""
    ids: list[str] = []
    labels: list[str | None] = []
    splits: list[str] = []
    categories: list[tuple[str, ...]] = []
    captions: list[str] = []
    image: list[int] = []
    problems: list[str] = []
    for part in parts:
        prefix = part.root.relative_to(root).as_posix()
        image.extend((part.image + len(ids)).tolist())
        captions.extend(part.captions)
        ids.extend(f"{prefix}/{image_id}" for image_id in part.images.ids)
        labels.extend(labels_of(part))
        splits.extend(splits_of(part))
        categories.extend(categories_of(part))
        problems.extend(part.problems)
    table = ImageTable.build(ids, labels, splits, root, categories if any(categories) else None)
    return PairDataset.build(table, captions, image, problems=problems)


def recognise_file(*names: str) -> Callable[[Path], str | None]:
    """Create a function that recognises a data set by any one of several files, given directly or in its folder."""

    def recognise(path: Path) -> str | None:
        if path.is_file():
            return path.name if path.name in names else None
        return next((name for name in names if (path / name).is_file()), None)

    return recognise


def head_of(path: Path, size: int) -> bytes:
    """Read the first bytes of a file; return none if it is missing or unreadable."""
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError:
        return b""


# -- Karpathy's caption layout, used by Flickr30k, RSICD and UCM-Captions: one JSON with `images`.


class _Sentence(msgspec.Struct, gc=False):
    raw: Any  # the builder refuses values that are not text, without losing the image


class _Image(msgspec.Struct, gc=False):
    filename: str
    sentences: list[_Sentence]
    split: str = "train"


def read_karpathy(path: Path, problem: Callable[[str], None]) -> list[ImageEntry]:
    """Read the images of `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`.

    Args:
        path: The file.
        problem: Called with each broken entry.

    Returns:
        File names without folder, captions and splits, in file order.

    Raises:
        InputError: If the file is missing or does not have this layout.
    """
    images: list[_Image | None] = read_lists(path, {"images": _Image}, problem)["images"]
    return [
        ImageEntry(
            image.filename,
            [sentence.raw for sentence in image.sentences],
            f"{path.name} images[{index}]",
            split=split_name(image.split),
        )
        for index, image in enumerate(images)
        if image is not None
    ]
