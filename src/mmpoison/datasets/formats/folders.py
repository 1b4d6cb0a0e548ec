"""Folders of images: with mmpoison's own table, or with one sub-folder per class."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmpoison.base.files import refuse_special
from mmpoison.base.untrusted import parse_json
from mmpoison.datasets.catalogue import register_format
from mmpoison.datasets.formats.columns import split_name
from mmpoison.datasets.own_rows import GoneRows, RowVerdicts, gone_places, table_of_objects
from mmpoison.errors import InputError
from mmpoison.images.sources import EXTENSIONS, image_extension
from mmpoison.pairs.builder import ImageEntry, PairRows
from mmpoison.pairs.folder import CAPTIONS_FILE, line_text, numbered_lines, open_pairs_folder
from mmpoison.pairs.labels import caption_of
from mmpoison.pairs.table import CAPTION_COLUMNS, SPLITS

# -- `pairs-folder`: mmpoison's own format, as one of the formats of a path.


def sort_pairs_folder(
    root: Path, out: Path, verdicts: RowVerdicts, **options: Any
) -> Iterator[GoneRows]:
    """Write `kept.jsonl`, the lines of kept images without dropped captions; yield the dropped pairs.

    Args:
        root: As for `open_pairs_folder`.
        out: Folder of what is written.
        verdicts: Which pairs stay.
        **options: Of reading; they change nothing here.
    """
    with (out / "kept.jsonl").open("wb") as kept:
        for number, raw in numbered_lines(root):
            found = verdicts.between(0, number, number + 1)
            verdict = found.get(number)
            if verdict is None or not verdict.go:
                kept.write(raw)
                continue
            line = parse_json(raw, f"{root} line {number}")
            if verdict.stay:
                shorter = {
                    name: [line[name][place] for place in verdict.stay]
                    for name in ("captions", CAPTION_COLUMNS)
                    if isinstance(line.get(name), list)
                }
                kept.write(line_text({**line, **shorter}).encode())
            yield GoneRows.of(0, gone_places(found), table_of_objects([line] * len(verdict.go)))


def _recognise_pairs(path: Path) -> str | None:
    if path.is_file():
        return path.name if path.suffix == ".jsonl" else None
    return CAPTIONS_FILE if (path / CAPTIONS_FILE).is_file() else None


register_format(
    open_pairs_folder,
    name="pairs-folder",
    summary=f"a folder with {CAPTIONS_FILE}, one image per line, and the images; or a .jsonl file alone",
    where_from="a folder written by `mmpoison data split --out`, or by hand (see the page on data formats)",
    recognise=_recognise_pairs,
    priority=3,
    sort_rows=sort_pairs_folder,
)


# -- `image-folder`: `CLASS/x.jpg` or `train/CLASS/x.jpg`, as in torchvision, with captions generated from the class.


TEMPLATES = (
    "a photo of a {}.",
    "a bad photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a cropped photo of a {}.",
)
"""Five of the templates used to evaluate CLIP on ImageNet."""

KNOWN_FILES = re.compile(
    r"\..*|thumbs\.db|desktop\.ini|readme(\.md|\.txt)?|license(\.txt)?", re.IGNORECASE
)
"""Files that systems and people leave in such folders."""


def open_image_folder(root: Path, *, templates: str | Sequence[str] = TEMPLATES) -> PairRows:
    """Open images in folders named after their class.

    Args:
        root: Folder of class folders, or of `train`, `val` (also `valid`, `validation`) and `test` folders of them.
        templates: Each makes a caption of every image, `{}` is the class with `_` and `-` as blanks; a string holds
            several with `;` between.

    Returns:
        The pairs; the label is the name of the folder, all images are in `train` if there are no split folders.

    Raises:
        InputError: If there is no class folder with an image, or a template has no `{}`.
    """
    made = _check_templates(templates)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    return PairRows(root, _entries(root, made), str(root))


def _entries(root: Path, templates: Sequence[str]) -> Iterator[ImageEntry | str]:
    splits = {folder: split_name(folder.name) for folder in _folders(root)}
    if not any(split in SPLITS for split in splits.values()):
        yield from _classes(root, root, "train", templates)
        return
    for folder, split in splits.items():
        if split not in SPLITS:
            yield f"{folder}: is not a split, unlike the other folders, so it is skipped"
        elif _leads_out(folder, root):
            yield f"{folder}: points outside {root}, so it is refused"
        else:
            yield from _classes(root, folder, str(split), templates)


def _check_templates(templates: Sequence[str] | str) -> tuple[str, ...]:
    listed = templates.split(";") if isinstance(templates, str) else templates
    made = tuple(str(t).strip() for t in listed if str(t).strip())
    for template in made:
        if template.count("{}") != 1 or template.replace("{}", "").count("{"):
            raise InputError(f"template {template!r}: use exactly one {{}}, for the class")
    if not made:
        raise InputError("templates: give at least one, e.g. 'a photo of a {}.'")
    return made


def _classes(
    root: Path, folder: Path, split: str, templates: Sequence[str]
) -> Iterator[ImageEntry | str]:
    for file in sorted(folder.iterdir()):
        if file.is_file() and not KNOWN_FILES.fullmatch(file.name):
            yield f"{file}: is in no class folder"
    for place in _folders(folder):
        if _leads_out(place, root):
            yield f"{place}: points outside {root}, so it is refused"
            continue
        captions = [caption_of(template, place.name) for template in templates]
        for file in _files(place):
            if KNOWN_FILES.fullmatch(file.name):
                continue
            if file.is_dir():
                yield f"{file}: a link to a folder, which is not followed"
            elif file.suffix.lower() not in EXTENSIONS and not _is_image(file):
                yield f"{file}: not an image"
            else:
                image_id = file.relative_to(root).as_posix()
                yield ImageEntry(image_id, captions, str(file), place.name, split, alone=True)


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its sub-folders. Links to folders are yielded, not followed."""
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if (Path(base) / name).is_symlink()]
        for name in sorted([*names, *links]):
            yield Path(base) / name


def _leads_out(folder: Path, root: Path) -> bool:
    return not folder.resolve().is_relative_to(root.resolve())


def _is_image(file: Path) -> bool:
    """Check by content whether a file is an image."""
    try:
        refuse_special(file)
        with file.open("rb") as stream:
            return image_extension(stream.read(16)) is not None
    except (OSError, InputError):
        return False


def _recognise(path: Path) -> str | None:
    if not path.is_dir():
        return None
    for top in _folders(path):
        places = _folders(top) if split_name(top.name) in SPLITS else [top]
        for place in places:
            for file in () if _leads_out(place, path) else _files(place):
                if file.suffix.lower() in EXTENSIONS:
                    return file.relative_to(path).as_posix()
    return None


register_format(
    open_image_folder,
    name="image-folder",
    summary="a folder for each class, as torchvision reads it; captions are made from templates",
    where_from="your own folder",
    recognise=_recognise,
    priority=0,
    streams=False,
)
