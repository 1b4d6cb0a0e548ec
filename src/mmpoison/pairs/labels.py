"""Sets labels by keywords in captions, or from a CSV file, and makes captions from labels."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from mmpoison.base.untrusted import BoundedRows
from mmpoison.errors import InputError
from mmpoison.pairs.table import SPLITS, ImageTable, PairDataset


def caption_of(template: str, label: str) -> str:
    """Generate a caption for an image of a class.

    >>> caption_of("a photo of a {}.", "oil_tanker"), caption_of("a photo of a {}.", "unicorn")
    ('a photo of an oil tanker.', 'a photo of a unicorn.')
    """
    name = " ".join(label.replace("_", " ").replace("-", " ").split()) or label
    before, after = template.split("{}")
    vowel = name[:1].lower() in "aeiou" and not name.lower().startswith(("uni", "use", "eu", "one"))
    if vowel or name.lower().startswith(("hour", "honest")):
        if before == "a " or before.endswith(" a "):
            before = before[:-1] + "n "
        elif before == "A ":
            before = "An "
    return before + name + after


def plural(noun: str) -> str:
    """Return the regular plural of a noun.

    >>> plural("boat"), plural("city"), plural("bush")
    ('boats', 'cities', 'bushes')
    """
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


Keywords = Mapping[str, Sequence[str]]
"""The keywords of each label."""


def label_by_keyword(pairs: PairDataset, keywords: Keywords) -> PairDataset:
    """Label the images that have a caption with a keyword (the labels of Visual Genome in section 5 of the paper).

    Keywords match whole words, in any case, with or without a regular plural ending: `plane` matches "two planes" and
    "a plane's wing", but not "airplane" or "planet". Words of a multi-word keyword may have any white space between
    them. An image whose captions match several labels gets none of them, because it could be on either side of an
    attack. All matching labels are added to its `categories`.

    Args:
        pairs: A clean set.
        keywords: Keywords by label, for example `{"sheep": ("sheep", "lamb", "goat")}`.

    Returns:
        The same pairs. An image without a keyword keeps its label; an image with keywords of several labels loses it.

    Raises:
        InputError: If the set is poisoned, there is no keyword, or no image has any.
    """
    refuse_poisoned(pairs, "labelled")
    patterns = {label: keyword_pattern(words) for label, words in sorted(keywords.items())}
    every = [word for words in keywords.values() for word in words]
    anything = keyword_pattern(every)
    found: dict[int, set[str]] = defaultdict(set)
    for caption, image in zip(pairs.captions, pairs.image.tolist(), strict=True):
        # search for all keywords at once first: nearly every caption has none
        if anything.search(caption):
            found[image].update(
                label for label, pattern in patterns.items() if pattern.search(caption)
            )
    if not found:
        raise InputError(
            f"labels by keyword: no caption has any of these words: {', '.join(every)}"
        )
    labels = labels_of(pairs)
    categories = categories_of(pairs)
    for image, matching in found.items():
        labels[image] = next(iter(matching)) if len(matching) == 1 else None
        categories[image] = tuple(sorted({*categories[image], *matching}))
    return relabel(pairs, labels=labels, categories=categories)


def keyword_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Build a pattern that matches any one of several words: whole words, any case, with or without a plural ending.

    Raises:
        InputError: If there are no words.

    >>> pattern = keyword_pattern(["plane", "polar bear"])
    >>> [bool(pattern.search(text)) for text in ("Two planes.", "airplane", "polar  bears", "planet")]
    [True, False, True, False]
    """
    spelled = [r"\s+".join(map(re.escape, word.split())) for word in words]
    if not spelled or not all(spelled):
        raise InputError("labels by keyword: give keywords, e.g. sheep=sheep|lamb|goat")
    return re.compile(rf"(?<!\w)(?:{'|'.join(spelled)})(?:e?s)?(?!\w)", re.IGNORECASE)


def parse_keywords(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Parse keywords by label from texts such as `label=word|word`, separated by `;`.

    Raises:
        InputError: If a text has no label or no word, or a label is repeated.

    >>> parse_keywords(["sheep=sheep|lamb|goat; aeroplane=plane|jet"])
    {'sheep': ('sheep', 'lamb', 'goat'), 'aeroplane': ('plane', 'jet')}
    """
    parsed: dict[str, tuple[str, ...]] = {}
    for text in (part.strip() for whole in texts for part in whole.split(";")):
        if not text:
            continue
        label, equals, right = text.partition("=")
        label = label.strip()
        words = tuple(" ".join(word.split()) for word in right.split("|"))
        if not equals or not label or not all(words):
            raise InputError(f"keywords {text!r}: write label=word|word, e.g. sheep=sheep|lamb")
        if label in parsed:
            raise InputError(f"keywords {text!r}: the label {label!r} is given twice")
        parsed[label] = words
    if not parsed:
        raise InputError("keywords: give some, e.g. sheep=sheep|lamb|goat")
    return parsed


def labels_from_csv(pairs: PairDataset, file: str | Path) -> PairDataset:
    """Read labels, and splits if present, from a CSV file with the columns `image`, `label` and optionally `split`.

    Args:
        pairs: A clean set.
        file: A comma-separated UTF-8 file with a header and one image id per row. An empty label removes the label; an
            empty split changes nothing. Other columns are ignored.

    Returns:
        The same pairs. Images that are not in the file keep their label and split.

    Raises:
        InputError: If the set is poisoned, or the file is missing, broken, lacks a column, names an image that is not
            in the set, or names one twice.
    """
    refuse_poisoned(pairs, "labelled")
    path = Path(file)
    index = {str(PurePosixPath(image_id)): i for i, image_id in enumerate(pairs.images.ids)}
    labels, splits = labels_of(pairs), splits_of(pairs)
    seen: set[int] = set()
    unknown, others = "", 0
    rows = BoundedRows(path)
    for needed in ("image", "label"):
        if needed not in rows.columns:
            raise InputError(
                f"{path}: has no column {needed!r}: the first line must be image,label or "
                "image,label,split"
            )
    for row in rows:
        where = f"{path} line {rows.line}"
        if None in row or row["image"] is None or row["label"] is None:
            raise InputError(f"{where}: the number of values differs from the header")
        image = index.get(str(PurePosixPath(row["image"].strip())))
        if image is None:
            unknown = unknown or f"{where}: {row['image']!r:.200}"
            others += 1
            continue
        if image in seen:
            raise InputError(f"{where}: image {row['image']!r:.200} occurs twice")
        seen.add(image)
        labels[image] = row["label"].strip() or None
        if split := (row.get("split") or "").strip():
            if split not in SPLITS:
                raise InputError(f"{where}: split {split!r:.80} is not one of {', '.join(SPLITS)}")
            splits[image] = split
    if unknown:
        raise InputError(
            f"{unknown} is not an image of the set (as in {others} rows): image must be an id like "
            f"{pairs.images.ids[0]!r:.200}"
        )
    if not seen:
        raise InputError(f"{path}: has a header but no rows")
    return relabel(pairs, labels=labels, splits=splits)


def relabel(
    pairs: PairDataset,
    *,
    labels: Sequence[str | None] | None = None,
    splits: Sequence[str] | None = None,
    categories: Sequence[tuple[str, ...]] | None = None,
) -> PairDataset:
    """Return the same pairs with new labels, splits or categories of the images, each of length `I`."""
    table = pairs.images
    images = ImageTable.build(
        table.ids,
        labels_of(pairs) if labels is None else labels,
        splits_of(pairs) if splits is None else splits,
        table.root,
        categories_of(pairs) if categories is None else categories,
        table.own_columns,
    )
    return replace(pairs, images=images)


def labels_of(pairs: PairDataset) -> list[str | None]:
    """Return the label (or None) of each image, length `I`."""
    # code -1, for images without a label, selects the last entry
    names = (*pairs.images.classes, None)
    return [names[code] for code in pairs.images.class_codes]


def splits_of(pairs: PairDataset) -> list[str]:
    """Return the split of each image, length `I`."""
    return [SPLITS[code] for code in pairs.images.split_codes]


def categories_of(pairs: PairDataset) -> list[tuple[str, ...]]:
    """Return the categories of each image, length `I`."""
    table = pairs.images
    return [()] * len(table) if table.categories is None else list(table.categories)


def refuse_poisoned(pairs: PairDataset, what: str) -> None:
    """Refuse a poisoned set, because its manifest would no longer match.

    Raises:
        InputError: If the set has a manifest.
    """
    if pairs.manifest is not None:
        raise InputError(f"a poisoned set cannot be {what}: start from the clean set")
