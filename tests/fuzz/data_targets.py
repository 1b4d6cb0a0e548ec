"""Targets that read data: tables of pairs in every format, what lies beside them, and images."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fuzz import tokens
from tests.fuzz.target import Case, Target

CLASSES = ("sheep", "sofa")
NAMES = tuple(f"{label}/{n}.png" for label in CLASSES for n in range(4))


# -- examples --------------------------------------------------------------------------------------


def picture_bytes(format: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """A small image file."""
    from PIL import Image

    image = Image.new("RGB", (24, 18), (200, 30, 90))
    image.putpixel((3, 4), (1, 2, 3))
    stream = io.BytesIO()
    image.convert(mode).save(stream, format, **options)
    return stream.getvalue()


def _line(name: str, number: int) -> dict[str, Any]:
    return {
        "image": name,
        "captions": [f"a {name.split('/')[0]} on a hill, {number}", f"picture {number}"],
        "label": name.split("/")[0],
        "split": ("train", "train", "val", "test")[number % 4],
    }


def _captions(folder: Path) -> None:
    """A pairs folder with its images."""
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture_bytes())
    lines = [json.dumps(_line(name, number)) for number, name in enumerate(NAMES)]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")


def _rows(folder: Path, separator: str) -> bytes:
    _captions(folder)
    (folder / "captions.jsonl").unlink()
    rows = [("filepath", "title", "label", "split")]
    for number, name in enumerate(NAMES):
        line = _line(name, number)
        rows += [(name, caption, line["label"], line["split"]) for caption in line["captions"]]
    quoted = (
        separator.join(f'"{cell}"' if separator in cell else cell for cell in row) for row in rows
    )
    return ("\n".join(quoted) + "\n").encode()


# -- readers ---------------------------------------------------------------------------------------


def _load(place: Path, format: str | None = None) -> Any:
    """The set as `data verify` reads it, as `train` does, and piece by piece as `filter` does."""
    from mmpoison.datasets import load_pairs, stream_pairs
    from mmpoison.datasets.verify.pairs_check import load_to_verify, verify_pairs
    from mmpoison.errors import InputError

    pairs, name, faults = load_to_verify(place, format=format)
    found = verify_pairs(pairs, images=False, format=name, manifest_faults=faults)
    json.dumps(found.to_json(), allow_nan=False)
    for line in pairs.lines():
        json.dumps(line)
    try:
        load_pairs(place, format=format)
        for piece in stream_pairs(place, images_at_once=3, format=format):
            piece.counts()
    except InputError:
        pass
    return pairs


def _copy(folder: Path) -> None:
    """Read the set, write it again, and read the copy."""
    from mmpoison.datasets import load_pairs, save_pairs

    _load_with_bytes(folder)
    shutil.rmtree(folder / "copy", ignore_errors=True)
    save_pairs(load_pairs(folder), folder / "copy", images="none")
    load_pairs(folder / "copy")


def _load_with_bytes(place: Path, format: str | None = None) -> None:
    from mmpoison.errors import InputError
    from mmpoison.images.sources import open_image

    pairs = _load(place, format)
    for image_id in pairs.images.ids:
        try:
            with open_image(pairs.root, str(image_id)) as stream:
                stream.read(1 << 20)
        except InputError:
            pass


def _read_published(name: str) -> Any:
    def read(folder: Path) -> None:
        from mmpoison.datasets import load_dataset

        pairs = load_dataset(name, folder, options={"missing": "keep"})
        json.dumps([*pairs.lines(), pairs.counts()])

    return read


# -- our own files ---------------------------------------------------------------------------------


def _poisoned(folder: Path) -> None:
    from mmpoison import SingleTargetLabel
    from mmpoison.datasets import load_pairs, save_pairs

    _captions(folder / "clean")
    clean = load_pairs(folder / "clean")
    poisoned = SingleTargetLabel(goal="sheep2sofa", samples=2, mode="add").poison(clean, seed=0)
    save_pairs(poisoned, folder / "poisoned")


def _read_poisoned(folder: Path) -> None:
    from mmpoison.attacks.injection import rebuild
    from mmpoison.datasets import load_pairs
    from mmpoison.datasets.verify.pairs_check import load_to_verify, verify_pairs
    from mmpoison.defenses.filters.pair_pieces import PairPieces
    from mmpoison.errors import InputError
    from mmpoison.pairs.manifest import PoisonManifest

    pairs, name, faults = load_to_verify(folder / "poisoned")
    clean = load_pairs(folder / "clean")
    with suppress(InputError):
        rebuild(clean, PoisonManifest.read(folder / "poisoned" / "manifest.json"))
    found = verify_pairs(pairs, clean=clean, images=False, format=name, manifest_faults=faults)
    json.dumps(found.to_json(), allow_nan=False)
    for piece in PairPieces(folder / "poisoned", images_at_once=3):
        piece.pair_ids()
    loaded = load_pairs(folder / "poisoned")
    assert loaded.manifest is not None
    json.dumps(loaded.manifest.to_json(), allow_nan=False)


def _with_labels(folder: Path) -> None:
    _captions(folder / "pairs")
    rows = [
        f"{name},{'sofa' if n % 2 else ''},{'train' if n else ''}" for n, name in enumerate(NAMES)
    ]
    (folder / "images.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    names = [
        f"{name}#{n % 2},{('keep', 'drop', 'unsure', '')[n % 4]}" for n, name in enumerate(NAMES)
    ]
    (folder / "pairs.csv").write_text("\n".join(["pair,verdict", *names]) + "\n")


def _read_labels(folder: Path) -> None:
    from mmpoison.datasets import labels_from_csv, load_pairs
    from mmpoison.defenses.filters.pair_labels import LabelFile, labelled_places
    from mmpoison.defenses.filters.pair_pieces import PairPieces
    from mmpoison.errors import InputError

    pairs = load_pairs(folder / "pairs")
    refused: InputError | None = None
    try:
        labels_from_csv(pairs, folder / "images.csv")
    except InputError as error:
        refused = error
    names = [[name for *_, name in PairPieces(pairs).judged("train")]]
    labelled_places(names, folder / "pairs.csv")
    with LabelFile(folder / "pairs.csv", [f"{NAMES[0]}#0"]) as file:
        file.set(f"{NAMES[0]}#0", "drop")
    if refused is not None:
        raise refused


def _with_scores(folder: Path) -> None:
    from tests.scan_results import write_scan_result

    _captions(folder / "pairs")
    train = [(name, n) for n, name in enumerate(NAMES) if n % 4 < 2]
    rows = [
        {
            **{"pair": f"{name}#{place}", "caption": caption, "score": 0.1 * n},
            **{"drop": n >= 3, "group": 0 if n < 2 else None},
        }
        for name, n in train
        for place, caption in enumerate(_line(name, n)["captions"])
    ]
    write_scan_result(folder, rows, data_path="pairs", groups=[{}])


def _read_scores(folder: Path) -> None:
    from mmpoison.defenses.filters.pair_pieces import PairPieces
    from mmpoison.pages.review import as_scanned, group_members, scanned_pairs
    from mmpoison.records.data_scan import read_scan

    # what it names may lie anywhere on the user's machine, so it is only read
    as_scanned(read_scan(folder), folder)
    group_members(folder)
    for pair in scanned_pairs(folder, PairPieces(folder / "pairs"), 5):
        json.dumps([pair.caption, pair.distance], allow_nan=False)


def _with_split(folder: Path) -> None:
    from mmpoison.datasets import FrozenSplit, load_pairs

    _captions(folder / "pairs")
    FrozenSplit.of(load_pairs(folder / "pairs"), "own").write(folder / "split.json")


def _read_split(folder: Path) -> None:
    from mmpoison.datasets import find_split, load_pairs

    find_split(folder / "split.json").apply(load_pairs(folder / "pairs"))


# -- other people's formats ------------------------------------------------------------------------


def _parquet_bytes(columns: dict[str, Any], **options: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, **options)
    return stream.getvalue()


def _images_column() -> list[dict[str, Any]]:
    return [{"bytes": picture_bytes(), "path": name} for name in NAMES]


def _parquet(folder: Path) -> None:
    columns = {
        "image": _images_column(),
        "captions": [_line(name, n)["captions"] for n, name in enumerate(NAMES)],
        "label": [name.split("/")[0] for name in NAMES],
        "split": ["train"] * len(NAMES),
    }
    (folder / "a.parquet").write_bytes(_parquet_bytes(columns, row_group_size=3))


def _parquet_examples() -> list[Case]:
    import datetime
    import decimal

    import pyarrow as pa

    plain: dict[str, Any] = {"image": list(NAMES), "caption": [f"a {name}" for name in NAMES]}
    n = len(NAMES)
    tables: list[dict[str, Any]] = [
        plain,
        {**plain, "label": list(range(n)), "split": pa.array(NAMES).dictionary_encode()},
        {**plain, "label": [datetime.datetime(2001, 1, 1)] * n},
        {**plain, "label": [decimal.Decimal("1.5")] * n},
        {**plain, "label": [[1]] * n, "categories": [["a", None]] * n},
        {**plain, "caption": [None, "", "x", "\x00", *NAMES[4:]]},
        {**plain, "caption": [["a"], None, [], [None], *[["x"]] * (n - 4)]},
        {**plain, "caption": pa.array([b"\xff"] * n)},
        {"image": pa.array([picture_bytes()] * n, pa.large_binary()), "text": ["x"] * n},
        {"image": pa.nulls(n), "caption": pa.nulls(n)},
        {"image": [], "caption": []},
    ]
    return [{"a.parquet": _parquet_bytes(table, compression="none")} for table in tables]


def _arrow(folder: Path) -> None:
    import pyarrow as pa

    table = pa.table(
        {
            "image": _images_column(),
            "captions": [_line(name, n)["captions"] for n, name in enumerate(NAMES)],
            "label": [n % 2 for n in range(len(NAMES))],
        }
    )
    features = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    with (
        pa.OSFile(str(folder / "a.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=3)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}], "_split": null}')
    (folder / "dataset_info.json").write_text(json.dumps(features["info"]))


def _tar(folder: Path) -> None:
    from tests.conftest import write_tar

    members: dict[str, bytes] = {}
    for n, name in enumerate(NAMES):
        stem = f"{'d' * 120}/{n}" if n == 3 else f"{n:09d}"
        line = json.dumps(_line(name, n)).encode()
        parts = {"png": picture_bytes(), "txt": b"a sheep\n", "json": line, "cls": b"sofa"}
        members |= {f"{stem}.{ending}": data for ending, data in parts.items()}
    write_tar(folder / "00000.tar", members)


def _coco(folder: Path) -> None:
    from tests.datasets.published.conftest import write_coco

    write_coco(folder, {n: (17, 1)[n % 2 :] for n in range(5)})


def _read_coco(folder: Path) -> None:
    from mmpoison.datasets import load_dataset

    for options in (
        {"labels": "largest"},
        {"splits": "paper", "drop_classes": "person", "test_per_class": 1},
    ):
        pairs = load_dataset("coco", folder, options={"missing": "keep", **options})
        json.dumps([*pairs.lines(), pairs.counts()])


def _visual_genome(folder: Path) -> None:
    from tests.datasets.published.conftest import write_regions

    phrases = ("two sheep", "a lamb in the grass", "planes in the sky", "a jet", "a goat", "x", "y")
    write_regions(folder, {n: phrases[n:] for n in range(4)})
    data = [{"image_id": n, "url": f"https://x/y/VG_100K_2/{n}.jpg"} for n in range(4)]
    (folder / "image_data.json").write_text(json.dumps(data))


def _karpathy(folder: Path) -> None:
    from tests.datasets.published.conftest import karpathy_image

    splits = ("train", "val", "test", "restval")
    images = [karpathy_image(f"airport_{n}.jpg", splits[n % 4]) for n in range(6)]
    (folder / "dataset_rsicd.json").write_text(json.dumps({"images": images, "dataset": "rsicd"}))


# -- images ----------------------------------------------------------------------------------------


def _one_image(folder: Path) -> None:
    (folder / "image.png").write_bytes(picture_bytes())


def _image_examples() -> list[Case]:
    from PIL import Image

    frames = [Image.new("RGB", (24, 18), (n, 0, 0)) for n in range(3)]
    several: dict[str, Any] = {"save_all": True, "append_images": frames}
    made = [
        picture_bytes("PNG", "P"),
        picture_bytes("PNG", "RGBA"),
        picture_bytes("PNG", "I;16"),
        picture_bytes("PNG", **several),
        picture_bytes("JPEG"),
        picture_bytes("JPEG", "CMYK"),
        picture_bytes(
            "JPEG", "L", progressive=True, exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00"
        ),
        picture_bytes("GIF", "P"),
        picture_bytes("GIF", "P", **several),
        picture_bytes("WEBP"),
        picture_bytes("WEBP", lossless=True),
        picture_bytes("WEBP", **several),
        picture_bytes("BMP"),
        picture_bytes("BMP", "1"),
        picture_bytes("TIFF"),
        picture_bytes("TIFF", compression="tiff_lzw"),
        picture_bytes("TIFF", compression="tiff_adobe_deflate"),
        picture_bytes("PPM"),
        picture_bytes("PPM", "1"),
    ]
    return [{"image.png": data} for data in made]


def _read_image(folder: Path) -> None:
    from mmpoison.images.decode import decode_images, read_image, read_image_bytes

    # one bad image never ends a pass over many
    _, faults = decode_images(folder, ["image.png"], 32, workers=1)
    read_image_bytes((folder / "image.png").read_bytes(), 32)
    read_image(folder, "image.png", 32)
    if faults:
        raise faults[0]


def targets() -> list[Target]:
    """Every target that reads data."""
    data = {**tokens.DATA_KEYS}
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    return [
        Target("pairs-folder", _captions, {"captions.jsonl": "jsonl"}, _copy, data),
        Target(
            "csv",
            lambda folder: _write(folder, "a.csv", _rows(folder, ",")),
            {"a.csv": "csv"},
            lambda folder: _load_with_bytes(folder / "a.csv"),
            data,
        ),
        Target(
            "tsv-gzip",
            lambda folder: _write(folder, "a.tsv.gz", gzip.compress(_rows(folder, "\t"))),
            {"a.tsv.gz": "csv.gz"},
            lambda folder: _load_with_bytes(folder / "a.tsv.gz"),
            data,
        ),
        Target(
            "parquet",
            _parquet,
            {"a.parquet": "parquet"},
            _load_with_bytes,
            examples=_parquet_examples,
        ),
        Target(
            "arrow",
            _arrow,
            {"a.arrow": "arrow", "state.json": "json", "dataset_info.json": "json"},
            lambda folder: _load_with_bytes(folder, "hugging-face"),
            {"filename": ("../canary/secret.png", "a.arrow", ""), "names": ([], "x", [1])},
        ),
        Target("tar", _tar, {"00000.tar": "tar"}, _load_with_bytes, data),
        Target(
            "coco",
            _coco,
            {
                "annotations/captions_train2017.json": "json",
                "annotations/instances_train2017.json": "json",
            },
            _read_coco,
            {"file_name": ("../canary/secret.png", ""), "image_id": (0, -1), "area": (1e308, -1)},
        ),
        Target(
            "visual-genome",
            _visual_genome,
            {"region_descriptions.json": "json", "image_data.json": "json"},
            _read_published("visual-genome"),
            {"id": (0, 2**62), "phrase": ("sheep", 3, None), "url": ("x", "/VG_100K/1.jpg")},
        ),
        Target(
            "karpathy",
            _karpathy,
            {"dataset_rsicd.json": "json"},
            _read_published("rsicd"),
            {"filename": ("../canary/secret.png", ""), "raw": (3, None), "split": ("x", "restval")},
        ),
        Target(
            "manifest",
            _poisoned,
            {"poisoned/manifest.json": "json"},
            _read_poisoned,
            tokens.MANIFEST_KEYS,
        ),
        Target(
            "labels",
            _with_labels,
            {"images.csv": "csv", "pairs.csv": "csv"},
            _read_labels,
            {**data, "verdict": ("keep", "drop", "unsure", "")},
        ),
        Target(
            "scores",
            _with_scores,
            {"scan.json": "json", "scores.parquet": "parquet"},
            _read_scores,
            {"data_path": ("..", 3, None), "groups": ([], 3), "pairs": (0, "x")},
        ),
        Target("split", _with_split, {"split.json": "json"}, _read_split, {"ids": ("name", "x")}),
        Target(
            "image",
            _one_image,
            {"image.png": "picture"},
            _read_image,
            examples=_image_examples,
            # a picture of as many pixels as are allowed
            memory=2 << 30,
        ),
    ]


def _write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
