"""`webdataset`: tar shards in img2dataset's layout, `00000.tar` with `000000012.jpg`, `.txt` and `.json`."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from mmpoison.base.untrusted import LeftOut, open_bytes, parse_json
from mmpoison.datasets.catalogue import register_format
from mmpoison.datasets.formats.columns import split_name, split_of_path
from mmpoison.datasets.formats.parquet import find_files
from mmpoison.datasets.own_rows import (
    GoneRows,
    KeptKeys,
    RowVerdicts,
    gone_places,
    table_of_objects,
)
from mmpoison.errors import InputError
from mmpoison.images.containers import walk_tar
from mmpoison.images.sources import EXTENSIONS
from mmpoison.pairs.builder import ImageEntry, PairRows
from mmpoison.pairs.table import CAPTION_COLUMNS, is_own_captions, own_keys

MAX_TEXT_BYTES = 2**20
"""Largest caption or JSON member, in bytes; larger ones are skipped."""

TEXT_ENDINGS = ("txt", "json", "cls")


READ_KEYS = ("key", "status", "image", "caption", "captions", "categories", CAPTION_COLUMNS)
"""Keys of `.json` that are not own columns: used by mmpoison, or about the shard."""


class KeyNames(TypedDict, total=False):
    """Keys of the `.json` of a sample.

    Attributes:
        caption: Of the caption, `caption` by default.
        label: Of the label, `label` by default.
        split: Of the split, `split` by default; where there is none, names of folders and shards say it.
    """

    caption: str
    label: str
    split: str


def open_webdataset(root: Path, *, own_columns: bool = False, **keys: Unpack[KeyNames]) -> PairRows:
    """Open tar shards; the images stay in them.

    Members that differ only in their ending belong together. The captions are the list `captions` in `.json`, else
    the text of `.txt`, else `caption` in `.json`; the label is `.cls`, else `label` in `.json`. In pieces, memory grows
    with the texts of the largest shard, not with their number.

    Args:
        root: A shard, or a folder of `*.tar` (also in folders below it).
        own_columns: Read the other keys of `.json` too, so that they are written with the pairs again.
        **keys: Which keys of `.json` are read, see `KeyNames`.

    Raises:
        InputError: If there are no shards.
    """
    folder, shards, refused = find_files(root, "*.tar")
    entries = chain(refused, _entries(folder, shards, keys, own_columns))
    names = [path.relative_to(folder).as_posix() for path in shards]
    return PairRows(folder, entries, str(root), folder=folder, files=names)


def sort_webdataset(
    root: Path, out: Path, verdicts: RowVerdicts, **keys: Any
) -> Iterator[GoneRows | KeptKeys]:
    """Yield the kept samples, by key (`__key__`), and the dropped pairs. Tars are not rewritten.

    Args:
        root: As for `open_webdataset`.
        out: Folder of what is written.
        verdicts: Which pairs stay.
        **keys: As for `open_webdataset`.
    """
    folder, shards, _ = find_files(root, "*.tar")
    for number, path in enumerate(shards):
        name = path.relative_to(folder).as_posix()
        samples = list(_read_shard(path, []).items())
        found = verdicts.between(number, 0, len(samples))
        yield KeptKeys(
            name.removesuffix(".tar").replace("/", "-"),
            [samples[row][0] for row in found],
            np.array([not verdict.go for verdict in found.values()], dtype=bool),
        )
        places = list(gone_places(found))
        if places:
            facts = {row: _own(*samples[row], f"{name} row {row}") for row, _ in places}
            yield GoneRows.of(number, places, table_of_objects([facts[row] for row, _ in places]))


def _own(key: str, sample: _Sample, where: str) -> dict[str, Any]:
    """Return a sample's own columns, under the owner's names."""
    return {"__key__": key, **_json(sample.texts.get("json"), where, [])}


@dataclass
class _Sample:
    image: str | None = None
    texts: dict[str, bytes] = field(default_factory=dict)


def _entries(
    folder: Path, shards: list[Path], keys: KeyNames, own: bool
) -> Iterator[ImageEntry | str]:
    for number, path in enumerate(shards):
        shard = path.relative_to(folder).as_posix()
        problems: list[str] = []
        # one shard at a time: tar has files in any order, so members of a key may be apart
        samples = _read_shard(path, problems)
        yield from problems
        split = split_of_path(shard)
        for row, (key, sample) in enumerate(samples.items()):
            yield _entry(shard, (number, row), key, sample, split, keys, own)


def _read_shard(path: Path, problems: list[str]) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    with open_bytes(path) as stream:
        for name, member in walk_tar(path, problems.append, stream):
            folder, slash, base = name.rpartition("/")
            # as in webdataset, the key ends at the first dot of the name
            stem, _, ending = base.partition(".")
            ending = ending.lower()
            key = folder + slash + stem
            if f".{ending}" in EXTENSIONS:
                sample = samples.setdefault(key, _Sample())
                if sample.image is None:
                    sample.image = name
                else:
                    line = f"{path.name}: {name!r:.80}: key {key!r:.80} has an image already"
                    problems.append(LeftOut(line, 0))
            elif ending in TEXT_ENDINGS:
                sample = samples.setdefault(key, _Sample())
                if ending in sample.texts:
                    problems.append(LeftOut(f"{path.name}: {name!r:.80} occurs twice", 0))
                elif member.size > MAX_TEXT_BYTES:
                    line = (
                        f"{path.name}: {name!r:.80} has {member.size:,} bytes, too many for a text"
                    )
                    problems.append(LeftOut(line, 0))
                else:
                    sample.texts[ending] = _read(stream, member)
    return samples


def _read(stream: Any, member: tarfile.TarInfo) -> bytes:
    # tarfile seeks by itself before it reads the next header
    stream.seek(member.offset_data)
    return bytes(stream.read(member.size))


def _captions(
    sample: _Sample, facts: Mapping[str, Any], keys: Mapping[str, Any]
) -> list[Any] | None:
    """Return the captions of a sample, or None if it has none."""
    captions = facts.get("captions")
    if isinstance(captions, list):
        return captions
    if "txt" in sample.texts:
        # half surrogates represent invalid UTF-8; the builder refuses them
        text = sample.texts["txt"].decode("utf-8", "surrogateescape")
        return [text.removesuffix("\n").removesuffix("\r")]
    single = facts.get(keys.get("caption", "caption"))
    return None if single is None else [single]


def _entry(
    shard: str,
    at: tuple[int, int],
    key: str,
    sample: _Sample,
    split: str | None,
    keys: KeyNames,
    own: bool,
) -> ImageEntry | str:
    where = f"{shard} key {key!r:.80}"
    if sample.image is None:
        return f"{where}: has no image"
    problems: list[str] = []
    facts = _json(sample.texts.get("json"), where, problems)
    captions = _captions(sample, facts, keys)
    if captions is None:
        return "; ".join([f"{where}: has no caption", *problems])
    label = facts.get(keys.get("label", "label"))
    if label is None and "cls" in sample.texts:
        label = sample.texts["cls"].decode("utf-8", "surrogateescape").strip()
    own_split = facts.get(keys.get("split", "split"))
    categories = facts.get("categories")
    used = {*READ_KEYS, *(str(keys.get(name, name)) for name in ("caption", "label", "split"))}
    own_captions = facts.get(CAPTION_COLUMNS)
    return ImageEntry(
        f"{shard}/{sample.image}",
        captions,
        where,
        None if label is None or label == "" else str(label),
        split_name(own_split) if isinstance(own_split, str) and own_split else split,
        [c for c in categories if isinstance(c, str)] if isinstance(categories, list) else [],
        alone=True,
        problems=problems,
        own=own_keys(facts, used) if own else None,
        own_captions=own_captions if own and is_own_captions(own_captions) else None,
        at=[(*at, place) for place in range(len(captions))],
    )


def _json(raw: bytes | None, where: str, problems: list[str]) -> dict[str, Any]:
    if raw is None:
        return {}
    try:
        value = parse_json(raw, f"{where}: .json")
    except InputError as error:
        problems.append(LeftOut(str(error), 0))
        return {}
    if isinstance(value, dict):
        return value
    problems.append(LeftOut(f"{where}: .json is not an object", 0))
    return {}


def _recognise(path: Path) -> str | None:
    if path.is_file():
        return path.name if path.suffix == ".tar" else None
    for pattern in ("*.tar", "*/*.tar"):
        for file in sorted(path.glob(pattern)):
            if file.is_file() and not file.name.startswith(".") and _is_shard(file):
                return file.relative_to(path).as_posix()
    return None


def _is_shard(file: Path) -> bool:
    """Check whether a tar file has texts for its first images, which makes it a shard."""
    if re.fullmatch(r"\d{4,}\.tar", file.name):
        return True
    members = islice(walk_tar(file, lambda _: None), 20)
    return any(name.rpartition(".")[2].lower() in TEXT_ENDINGS for name, _ in members)


register_format(
    open_webdataset,
    name="webdataset",
    summary="tar shards of images and captions, as written by img2dataset and webdataset",
    where_from="img2dataset with output_format=webdataset, or `webdataset.ShardWriter`",
    recognise=_recognise,
    sort_rows=sort_webdataset,
)
