"""Frozen splits: which image is in which part, in a small file that is shared without the images."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import numpy as np

from mmpoison._version import __version__
from mmpoison.base.files import write_json
from mmpoison.base.phrasing import count_of, count_phrase, one_line
from mmpoison.base.registry import unknown_name
from mmpoison.base.untrusted import read_bytes
from mmpoison.errors import InputError
from mmpoison.pairs.labels import labels_of, refuse_poisoned, relabel, splits_of
from mmpoison.pairs.table import SPLITS, PairDataset

# -- Random choices of data (splits, labels, subsets) that never change: by hashing, not by a generator.


def _digest(key: str, seed: int, stream: str) -> bytes:
    return hashlib.sha256(f"{seed}/{stream}/{key}".encode()).digest()


def hash_order(ids: Sequence[str], seed: int, stream: str) -> list[int]:
    """Order positions of ``ids`` at random, depending only on the seed, the stream and each id.

    Args:
        ids: Identifiers, for example image ids. Equal ids keep their order.
        seed: Any integer.
        stream: A word for the purpose of the choice, so that two choices over the same ids are independent.

    Returns:
        A permutation of ``range(len(ids))``.
    """
    digests = [_digest(identifier, seed, stream) for identifier in ids]
    return sorted(range(len(ids)), key=digests.__getitem__)


def hash_pick(n: int, key: str, seed: int, stream: str) -> int:
    """Draw uniformly from ``range(n)``, depending only on the seed, the stream and the key.

    Raises:
        ValueError: If ``n`` is less than one.
    """
    if n < 1:
        raise ValueError(f"Nothing to choose from: n is {n}.")
    return int.from_bytes(_digest(key, seed, stream), "big") % n


# -- Smaller, balanced and repeated versions of a set of pairs (section 5 and appendix A of the paper).


def balanced(pairs: PairDataset, seed: int = 0) -> PairDataset:
    """Keep one random caption for each image, in all splits (the sets "-b" of appendix C in the paper)."""
    return cap_captions(pairs, 1, seed)


def cap_captions(pairs: PairDataset, most: int, seed: int = 0) -> PairDataset:
    """At most so many captions for each image, chosen at random, in the order that they had.

    The choices are nested: the captions kept with `most=2` are among those kept with `most=5`.

    Raises:
        InputError: If the set is poisoned or `most` is less than one.
    """
    refuse_poisoned(pairs, "cut to fewer captions")
    if most < 1:
        raise InputError(f"captions an image: {most} is too few, at least 1 is needed")
    bounds = np.searchsorted(pairs.image, np.arange(len(pairs.images) + 1))
    kept = np.ones(len(pairs), dtype=bool)
    for index in np.flatnonzero(np.diff(bounds) > most):
        first, last = int(bounds[index]), int(bounds[index + 1])
        name = image_name(pairs.images.ids[index])
        keys = [f"{name}/{caption}" for caption in pairs.captions[first:last]]
        kept[[first + position for position in hash_order(keys, seed, "captions")[most:]]] = False
    return pairs.where(kept)


def repeat_captions(pairs: PairDataset, times: int, *, split: str | None = "test") -> PairDataset:
    """Repeat captions several times, separated by a space: longer queries with the same meaning.

    Args:
        pairs: Any set, or a poisoned one where its training part is not touched.
        times: How often each caption stands in the new one (1, 2 and 3 in the paper).
        split: The split that is changed, None for all.

    Raises:
        InputError: If `times` is less than one, or captions would change that a manifest describes.
    """
    if times < 1:
        raise InputError(f"caption repeated {times} times: at least 1 is needed")
    if split != "test":
        refuse_poisoned(pairs, "given longer captions")
    captions = pairs.captions.copy()
    rows = np.arange(len(pairs))
    if split is not None:
        rows = np.flatnonzero(pairs.in_split(split))
    for row in rows:
        captions[row] = " ".join([captions[row]] * times)
    return replace(pairs, captions=captions)


def subset_per_class(pairs: PairDataset, share: float, seed: int = 0) -> PairDataset:
    """Keep a random share of the training images of each class; other splits do not change (COCO-M and COCO-S).

    Images without a label count as one more class. A class keeps at least one image. The choices are nested: a quarter
    is part of the half with the same seed.

    Args:
        pairs: A clean set.
        share: Of the training images of each class, in (0, 1]; half an image counts as one.
        seed: Seed of the choice.

    Raises:
        InputError: If the set is poisoned or the share is out of range.
    """
    refuse_poisoned(pairs, "cut to fewer images")
    if not 0 < share <= 1:
        raise InputError(f"share {share} of the images: a number over 0 and at most 1 is needed")
    train = pairs.images.indices(split="train")
    kept = np.ones(len(pairs.images), dtype=bool)
    codes = pairs.images.class_codes[train]
    for code in np.unique(codes):
        group = train[codes == code]
        most = max(1, int(len(group) * share + 0.5))
        kept[group[hash_order(_keys(pairs, group.tolist()), seed, "subset")[most:]]] = False
    return pairs.piece(np.flatnonzero(kept))


def split_per_class(pairs: PairDataset, test: int, seed: int = 0) -> PairDataset:
    """Split a set: so many random images of each class are the test, everything else is training data.

    Args:
        pairs: A clean set with labels; the splits that it has are forgotten.
        test: Test images of each class.
        seed: Seed of the choice.

    Raises:
        InputError: If the set is poisoned, has no labels, or a class has not one image more than its test needs.
    """
    refuse_poisoned(pairs, "split")
    if test < 1:
        raise InputError(f"test images of a class: {test} is too few, at least 1 is needed")
    if not pairs.classes:
        raise InputError("the set has no labels, so it cannot be split by class: give labels first")
    for label, count in pairs.counts()["classes"].items():
        if count <= test:
            raise InputError(
                f"class {label!r} has {count_of(count, 'image')}: {test} for the test leave none to train"
            )
    splits = ["train"] * len(pairs.images)
    for label in pairs.classes:
        group = pairs.images.indices(label=label)
        for position in hash_order(_keys(pairs, group.tolist()), seed, "split")[:test]:
            splits[group[position]] = "test"
    return relabel(pairs, splits=splits)


def drop_classes(pairs: PairDataset, names: Sequence[str]) -> PairDataset:
    """Return the pairs without the images of some classes.

    Raises:
        InputError: If the set is poisoned, a class does not exist, or nothing is left.
    """
    refuse_poisoned(pairs, "cut to fewer classes")
    codes = [pairs.images.class_code(name) for name in names]
    kept = np.flatnonzero(~np.isin(pairs.images.class_codes, codes))
    if not len(kept):
        raise InputError(f"without {', '.join(names)} no image is left")
    return pairs.piece(kept)


def image_name(image_id: str) -> str:
    """Return the file name of an image, which identifies it in every layout of folders.

    >>> image_name("images/2008_000716.jpg")
    '2008_000716.jpg'
    """
    return image_id.rpartition("/")[2]


def _keys(pairs: PairDataset, images: Iterable[int]) -> list[str]:
    """Return the keys that the choice of an image depends on.

    The label is part of it: where the files of each class are called `0001.jpg`, `0002.jpg` and so on, the choices in
    two classes are independent.
    """
    table = pairs.images
    return [f"{table.label(index) or ''}/{image_name(table.ids[index])}" for index in images]


MAX_BYTES = 256 << 20
"""A split of some million images."""

IdKind = Literal["path", "name"]
"""How a split knows an image: by its path in the data set, or by its file name in whatever folder."""


@dataclass(frozen=True)
class FrozenSplit:
    """The part and the label of every image of a set.

    Attributes:
        name: What set it splits.
        splits: `train`, `val` or `test` by id.
        labels: Label by id, None for an image without one; the same ids.
        ids: Whether the ids are paths or file names.
        version: Version of the tool that wrote it.
    """

    name: str
    splits: Mapping[str, str]
    labels: Mapping[str, str | None]
    ids: IdKind = "path"
    version: str = __version__

    @classmethod
    def of(cls, pairs: PairDataset, name: str, ids: IdKind = "path") -> FrozenSplit:
        """Take the split of a table of pairs.

        Raises:
            InputError: If two images have the same file name and `ids` is `name`.
        """
        keys = [_key(image_id, ids) for image_id in pairs.images.ids]
        _refuse_twins(keys)
        return cls(
            name,
            dict(zip(keys, splits_of(pairs), strict=True)),
            dict(zip(keys, labels_of(pairs), strict=True)),
            ids,
        )

    @classmethod
    def read(cls, path: str | Path) -> FrozenSplit:
        """Read a split and check it against its own sha256.

        Raises:
            InputError: If the file is missing, not a split, or was changed.
        """
        file = Path(path)
        try:
            raw = msgspec.json.decode(read_bytes(file, MAX_BYTES), type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"{file}: not a split ({one_line(str(error))[:160]})") from None
        splits: dict[str, str] = {}
        for split, members in (("train", raw.train), ("val", raw.val), ("test", raw.test)):
            for member in members:
                if member in splits:
                    raise InputError(f"{file}: image {member!r:.200} is in two places")
                splits[member] = split
        if unknown := set(raw.labels) - set(splits):
            raise InputError(f"{file}: a label for {min(unknown)!r:.200}, which is in no part")
        found = cls(
            raw.name,
            splits,
            {member: raw.labels.get(member) for member in splits},
            raw.ids,
            raw.version,
        )
        if found.sha256 != raw.sha256:
            raise InputError(
                f"{file}: its sha256 should be {found.sha256}: the file was changed by hand or damaged"
            )
        return found

    @property
    def sha256(self) -> str:
        """sha256 over id, part and label of every image: equal exactly when two people have the same split."""
        digest = hashlib.sha256()
        for member in sorted(self.splits):
            line = json.dumps([member, self.splits[member], self.labels[member]])
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def members(self, split: str) -> list[str]:
        """List the ids of one part, in the order of the split."""
        return [member for member, part in self.splits.items() if part == split]

    def counts(self) -> dict[str, int]:
        """Count the images of each part and the classes."""
        parts = {split: len(self.members(split)) for split in SPLITS}
        classes = {label for label in self.labels.values() if label is not None}
        return {**parts, "classes": len(classes)}

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "name": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "ids": self.ids,
            "counts": self.counts(),
            **{split: self.members(split) for split in SPLITS},
            "labels": {member: label for member, label in self.labels.items() if label is not None},
        }

    def write(self, path: str | Path) -> Path:
        """Write the file, whole or not at all."""
        target = Path(path)
        write_json(target, self.to_json())
        return target

    def apply(self, pairs: PairDataset, *, strict: bool = True, where: str = "") -> PairDataset:
        """Give a set exactly this split, and its labels.

        Args:
            pairs: A clean set with the images of the split, in any folders if the split knows them by name.
            strict: Refuse a set with other images; else leave out those that the split does not name and say which are
                missing in `problems`.
            where: The file of the split, for messages.

        Returns:
            The same images in the order of `pairs`.

        Raises:
            InputError: If the set is poisoned, two of its images could be meant by one name, none is in the split, or
                (strict) the images are not the same.
        """
        refuse_poisoned(pairs, "split")
        where = where or f"split {self.name!r:.80}"
        keys = [_key(image_id, self.ids) for image_id in pairs.images.ids]
        here = set(keys)
        missing = [member for member in self.splits if member not in here]
        extra = [key for key in keys if key not in self.splits]
        if len(extra) == len(keys):
            raise InputError(
                f"{where}: none of its images is in the data: it knows {next(iter(self.splits), '')!r:.200}, "
                f"the data have {keys[0]!r:.200}"
            )
        found = [
            f"{where}: {count_phrase(len(names), 'image')} {what}, the first: {names[0]!r:.200}"
            for names, what in (
                (missing, "not in the data"),
                (extra, "in the data, but not in the split"),
            )
            if names
        ]
        if found and strict:
            raise InputError("; ".join(found))
        kept = np.array([i for i, key in enumerate(keys) if key in self.splits], dtype=np.int64)
        part = pairs.piece(kept) if extra else pairs
        again = [keys[index] for index in kept]
        _refuse_twins(again)
        named = relabel(
            part,
            splits=[self.splits[key] for key in again],
            labels=[self.labels[key] for key in again],
        )
        return replace(named, problems=(*named.problems, *found))


def shipped_splits() -> list[str]:
    """List the names of the splits in the package."""
    folder = resources.files("mmpoison.pairs") / "frozen_splits"
    return sorted(
        PurePosixPath(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".json")
    )


def shipped_split(name: str) -> FrozenSplit:
    """Return a split of the package.

    Raises:
        InputError: If there is none of this name.
    """
    known = shipped_splits()
    if name not in known:
        raise InputError(unknown_name("split", name, known))
    with resources.as_file(
        resources.files("mmpoison.pairs") / "frozen_splits" / f"{name}.json"
    ) as path:
        return FrozenSplit.read(path)


def find_split(name: str | Path) -> FrozenSplit:
    """Return the split of a file, or the one with this name in the package.

    Raises:
        InputError: If there is neither, or the file is broken.
    """
    path = Path(name)
    # a folder of the data may have the name of a shipped split
    if not path.is_dir() and (path.exists() or path.suffix):
        return FrozenSplit.read(path)
    return shipped_split(str(name))


class _File(msgspec.Struct):
    name: str
    sha256: str
    train: list[str]
    test: list[str]
    val: list[str] = []
    labels: dict[str, str] = {}
    ids: IdKind = "path"
    version: str = ""


def _refuse_twins(keys: Sequence[str]) -> None:
    if len(set(keys)) != len(keys):
        twice = Counter(keys).most_common(1)[0][0]
        raise InputError(
            f"two images are called {twice!r:.200}: they are known by path, not by name"
        )


def _key(image_id: str, ids: IdKind) -> str:
    return image_name(image_id) if ids == "name" else str(PurePosixPath(image_id))
