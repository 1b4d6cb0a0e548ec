"""A CSV with columns that nobody knows goes through every verb at the first try."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_help import PATHS, named

from mmpoison.datasets import load_dataset
from mmpoison.pairs.folder import save_pairs

Cli = Callable[..., Any]

NAMES_OF_DATA = ("name of a data set", "Pairs in any format", "Clean data set", "of pairs, or hf:")
"""What the help of an option or argument says that takes pairs of any format."""

NO_DATA: dict[tuple[str, ...], str] = {
    ("run",): "a recipe names its data and their format; --data-root and --set change them",
    ("data", "list"): "takes a registered name alone: it reads no pairs",
    ("data", "build"): "takes a registered name alone, and the options of its making",
}
"""Verbs near data that take no path of pairs, and why."""


def takes_data(path: tuple[str, ...]) -> bool:
    """Whether a verb takes pairs of any format: by an option `--data`, or an argument that says so."""
    return any(
        "--data" in parameter.opts
        or any(words in (getattr(parameter, "help", "") or "") for words in NAMES_OF_DATA)
        for parameter in named(path).params
    )


TAKE_DATA = {path for path in PATHS if takes_data(path)}
NOTICE = "columns: image = Datei, caption = Satz (found by their values)"


@pytest.fixture(scope="module")
def own_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OpenMoji scenes as an engineer's table; images lie in another folder."""
    folder = tmp_path_factory.mktemp("own")
    pairs = load_dataset("openmoji", options={"unlabelled": 40, "per_class": 4, "held_out": 4})
    save_pairs(pairs, folder / "bilder", images="copy")
    with (folder / "daten.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream, delimiter=";")
        rows.writerow(["nr", "Datei", "Satz", "split", "Art"])
        rows.writerows(
            [n, pair.image, pair.caption, pair.split, pair.label or ""]
            for n, pair in enumerate(pairs)
        )
    shutil.move(folder / "bilder", folder / "images")
    return folder / "daten.csv"


def test_the_exceptions_take_no_data() -> None:
    # whoever adds --data to one of these takes it from the exceptions
    assert not TAKE_DATA & set(NO_DATA)
    assert set(NO_DATA) <= set(PATHS)


@pytest.mark.parametrize("path", sorted(set(PATHS) - set(NO_DATA)), ids=" ".join)
def test_verbs_that_take_data_and_no_others_say_how_they_are_read(path: tuple[str, ...]) -> None:
    """A verb that reads data under another name is found by the options that only data have."""
    options = {name for parameter in named(path).params for name in parameter.opts}
    for name in ("--format", "--data-root", "--option"):
        assert (name in options) == (path in TAKE_DATA), name


def test_verify_says_once_which_columns_it_found(cli: Cli, own_table: Path) -> None:
    root = own_table.parent / "images"
    done = cli("data", "verify", own_table, "--data-root", root, "--no-images", "--json")
    assert done.code == 0, done.err
    assert done.err.count(NOTICE) == 1
    assert json.loads(done.out)["format"] == "csv"
    chosen = ("--option", "image=Datei", "--option", "caption=Satz")
    assert cli("data", "verify", own_table, "--data-root", root, "--no-images", *chosen).err == ""


def test_absolute_paths_elsewhere_name_the_data_root(
    cli: Cli, own_table: Path, tmp_path: Path
) -> None:
    images = own_table.parent / "images"
    file = tmp_path / "absolute.csv"
    with own_table.open(encoding="utf-8", newline="") as stream, file.open("w", newline="") as out:
        rows, written = csv.DictReader(stream, delimiter=";"), csv.writer(out)
        written.writerow(["image", "caption"])
        written.writerows([images / row["Datei"], row["Satz"]] for row in rows)
    # where all images are there, their folder is found
    done = cli("data", "verify", file, "--no-images")
    assert done.code == 0
    assert f"{file}: images: {images}" in done.err
    with file.open("a") as out:
        out.write(f"{images}/gone.jpg,a sheep\n")
    done = cli("data", "verify", file, "--no-images")
    assert done.code == 2
    # what the line says to add is what it takes
    start = (
        f"mmpoison: {file}: no image path is in the folder {str(tmp_path)!r}: all are in {images}"
    )
    assert done.err.startswith(start)
    said = done.err.rstrip("\n").rpartition("give --data-root ")[2]
    assert Path(said) == images
    assert cli("data", "verify", file, "--no-images", "--data-root", said).code == 0
    # one image elsewhere: the others are read, and the warning says what to do
    with file.open("a") as out:
        out.write("/elsewhere/1.jpg,a sheep\n")
    some = cli("data", "verify", file, "--no-images", "--data-root", said)
    line = "image path '/elsewhere/1.jpg' leaves the folder, so it is refused: give the folder of all images with "
    assert f"{line}--data-root" in " ".join((some.out + some.err).split())
