"""Writers of one shard of a converted set: Parquet, a webdataset tar, or a part of a pairs folder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmpoison.base.files import atomic_file, write_json
from mmpoison.errors import InputError
from mmpoison.images.sources import (
    EXTENSIONS,
    NameClash,
    image_bytes,
    image_extension,
)
from mmpoison.pairs.folder import LINE_KEYS, ImagePolicy, line_text, place_image
from mmpoison.pairs.own_columns import CAPTION_COLUMNS, Kind, add_kinds, column_value
from mmpoison.pairs.table import PairDataset

Target = Literal["pairs-folder", "parquet", "webdataset"]
Line = dict[str, Any]

ROWS_IN_GROUP = 256
"""Rows of a Parquet row group with images: to read one image, the images of its group are read."""

BYTES_IN_GROUP = 64 * 2**20


@dataclass
class WrittenShards:
    """The result of writing the images of one shard.

    Attributes:
        ids: New id of each image that was written, in order.
        pairs: Number of its pairs.
        problems: One line for each image that was left out.
        kept: Whether an earlier, interrupted conversion wrote it.
    """

    ids: list[str] = field(default_factory=list)
    pairs: int = 0
    problems: list[str] = field(default_factory=list)
    kept: bool = False

    def add(self, new_id: str, line: Line) -> None:
        """Count an image."""
        self.ids.append(new_id)
        self.pairs += len(line["captions"])


def write_shard(
    to: Target,
    number: int,
    lines: Sequence[Line],
    root: Path,
    folder: Path,
    images: ImagePolicy,
    own_columns: Mapping[str, Kind] | None = None,
) -> WrittenShards:
    """Write one shard; an image that cannot be read is left out and named.

    Args:
        to: The format.
        number: Number of the shard, from 0.
        lines: Its images, as `PairDataset.lines` gives them.
        root: Folder that their ids start from.
        folder: Where the shard goes; files that are there from an interrupted attempt are replaced.
        images: Whether a pairs folder gets links, copies or no images, and Parquet bytes or paths (`none`).
        own_columns: For Parquet, the user's own columns of all shards and their kinds, see `column_kinds`.

    Raises:
        NameClash: If an image would take the place of another. Shards that are written one after the other do not see
            it: who puts them together compares the names.
    """
    written = WrittenShards()
    if to == "parquet":
        _write_parquet(number, lines, root, folder, images != "none", own_columns or {}, written)
    elif to == "webdataset":
        _write_tar(number, lines, root, folder, written)
    else:
        _write_part(number, lines, root, folder, images, written)
    return written


def _with_bytes(
    lines: Sequence[Line], root: Path, written: WrittenShards
) -> Iterator[tuple[Line, bytes]]:
    for line in lines:
        try:
            yield line, image_bytes(root, line["image"])
        except InputError as error:
            written.problems.append(str(error))


# -- Parquet ---------------------------------------------------------------------------------------


def column_kinds(pieces: Iterable[PairDataset]) -> dict[str, Kind]:
    """Return the own columns of a set and what each can hold, so that all its files get one schema.

    Args:
        pieces: The set; they are read one after the other.
    """
    kinds: dict[str, Kind] = {}
    for piece in pieces:
        if piece.images.own_columns is not None:
            add_kinds(kinds, piece.images.own_columns)
        if piece.own_columns is not None:
            kinds[CAPTION_COLUMNS] = "text"
    return kinds


def parquet_schema(embed: bool, own_columns: Mapping[str, Kind] | None = None) -> Any:
    """Return the schema of the files: Hugging Face's `datasets` reads the column `image` as images.

    Args:
        embed: Whether images are bytes, else paths.
        own_columns: The user's own columns, see `column_kinds`.
    """
    import pyarrow as pa

    texts = pa.list_(pa.string())
    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
    inside = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": inside if embed else pa.string(),
        "captions": texts,
        "label": pa.string(),
        "split": pa.string(),
        "categories": texts,
        **{
            name: texts if name == CAPTION_COLUMNS else types[kind]
            for name, kind in (own_columns or {}).items()
        },
    }
    features = {name: _feature(kind) for name, kind in columns.items()}
    return pa.schema(
        list(columns.items()),
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def _feature(kind: Any) -> Any:
    """Describe a column as Hugging Face's `datasets` does."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {"_type": "Image"}
    return {"dtype": str(kind).replace("double", "float64"), "_type": "Value"}


def _write_parquet(
    number: int,
    lines: Sequence[Line],
    root: Path,
    folder: Path,
    embed: bool,
    own_columns: Mapping[str, Kind],
    written: WrittenShards,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"part-{number:05d}.parquet"
    schema = parquet_schema(embed, own_columns)
    rows: list[Line] = []
    size = 0
    with (
        atomic_file(folder / name) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):

        def flush() -> None:
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()

        pictures: Iterator[tuple[Line, bytes | None]] = (
            _with_bytes(lines, root, written) if embed else ((line, None) for line in lines)
        )
        for line, data in pictures:
            image = line["image"]
            rows.append(
                {
                    "image": image if data is None else {"bytes": data, "path": image},
                    "captions": line["captions"],
                    "label": line["label"],
                    "split": line["split"],
                    "categories": line.get("categories", []),
                    **_own_cells(line, own_columns),
                }
            )
            written.add(image if data is None else f"{name}/{len(written.ids)}", line)
            size += len(data or b"")
            if len(rows) >= (ROWS_IN_GROUP if embed else 65536) or size >= BYTES_IN_GROUP:
                flush()
                size = 0
        flush()


def _own_cells(line: Line, own_columns: Mapping[str, Kind]) -> Line:
    cells = {
        name: column_value(line.get(name), kind)
        for name, kind in own_columns.items()
        if name != CAPTION_COLUMNS
    }
    if CAPTION_COLUMNS in own_columns:
        cells[CAPTION_COLUMNS] = [json.dumps(one) for one in line.get(CAPTION_COLUMNS, [])] or None
    return cells


# -- webdataset ------------------------------------------------------------------------------------


def _write_tar(
    number: int, lines: Sequence[Line], root: Path, folder: Path, written: WrittenShards
) -> None:
    name = f"{number:05d}.tar"
    with (
        atomic_file(folder / name) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for line, data in _with_bytes(lines, root, written):
            key = f"{number:05d}{len(written.ids):04d}"
            ending = image_extension(data) or Path(line["image"]).suffix.lower()
            captions = line["captions"]
            facts = {
                **{name: value for name, value in line.items() if name not in LINE_KEYS},
                "key": key,
                "status": "success",
                "caption": captions[0] if captions else None,
                "captions": captions,
                "label": line["label"],
                "split": line["split"],
                "categories": line.get("categories", []),
                "image": line["image"],
            }
            if CAPTION_COLUMNS in line:
                facts[CAPTION_COLUMNS] = line[CAPTION_COLUMNS]
            if ending not in EXTENSIONS:
                written.problems.append(f"{root / line['image']}: not an image of a known format")
                continue
            _add_member(archive, key + ending, data)
            if captions:
                _add_member(archive, f"{key}.txt", captions[0].encode())
            _add_member(archive, f"{key}.json", json.dumps(facts).encode())
            written.add(f"{name}/{key}{ending}", line)
    # img2dataset writes such a note for each shard
    write_json(
        folder / f"{number:05d}_stats.json", {"count": len(lines), "successes": len(written.ids)}
    )


def _add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(data))


# -- part of a pairs folder ------------------------------------------------------------------------


def part_file(folder: Path, number: int) -> Path:
    """Return the file with the lines of one part of a pairs folder, before the parts are joined."""
    return folder.parent / "lines" / f"{number:05d}.jsonl"


def _write_part(
    number: int,
    lines: Sequence[Line],
    root: Path,
    folder: Path,
    images: ImagePolicy,
    written: WrittenShards,
) -> None:
    with (
        atomic_file(part_file(folder, number)) as temporary,
        temporary.open("w", encoding="utf-8") as stream,
    ):
        for line in lines:
            try:
                name = line["image"]
                if images != "none":
                    name = place_image(root, name, folder, copy=images == "copy", replace=True)
            except NameClash:
                raise
            except InputError as error:
                written.problems.append(str(error))
                continue
            stream.write(line_text({**line, "image": name}))
            written.add(name, line)
