"""`flickr30k`, `pascal-sentences` and the two together: their other layouts, broken lines, and the real sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import SHARED, refusal
from tests.datasets.published.conftest import copied, write_pascal

from mmpoison.datasets import DATASETS, PairDataset, load_dataset, load_pairs
from mmpoison.datasets.published.flickr_pascal import CLASSES, load_pascal_sentences
from mmpoison.errors import MmpoisonWarning

TOKENS = (
    "1000092795.jpg#0\tTwo young guys with shaggy hair look at their hands .\n"
    "1000092795.jpg#1\tTwo young , White males are outside near many bushes .\n"
    '10002456.jpg#0\tSeveral men in "hard hats" | are operating a giant pulley system .\n'
    "10002456.jpg#1\tWorkers look down from up above on a piece of equipment .\n"
)
CSV = "image_name| comment_number| comment\n" + TOKENS.replace("#", "| ").replace("\t", "| ")


# -- Flickr30k -------------------------------------------------------------------------------------


def test_kaggles_file_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "results_20130124.token").write_text(TOKENS)
    tokens = load_pairs(tmp_path / "results_20130124.token")
    (tmp_path / "results.csv").write_text(CSV)
    table = load_pairs(tmp_path / "results.csv")
    assert tokens.problems == table.problems == ()
    assert table.fingerprint == tokens.fingerprint
    assert list(tokens.captions) == [line.split("\t")[1] for line in TOKENS.splitlines()]
    # once in Kaggle's file the bar between number and caption is lost
    lines = CSV.splitlines()
    lines.insert(3, "1000092795.jpg| 4   A dog runs across the grass .")
    (tmp_path / "results.csv").write_text("\n".join(lines))
    pairs = load_pairs(tmp_path / "results.csv")
    assert pairs.problems == ()
    assert pairs.captions[2] == "A dog runs across the grass ."


def test_kaggles_folder_and_images_beside_the_captions(tmp_path: Path) -> None:
    inner = tmp_path / "flickr30k_images"
    photos = inner / "flickr30k_images"
    photos.mkdir(parents=True)
    for name in ("1000092795.jpg", "10002456.jpg"):
        (photos / name).touch()
    (inner / "results.csv").write_text(CSV)
    (photos / "results_20130124.token").write_text(TOKENS)
    for place in (tmp_path, inner, photos):
        pairs = load_pairs(place)
        assert pairs.problems == ()
        assert all((pairs.root / name).is_file() for name in pairs.images.ids)


def test_of_several_files_the_one_with_all_images_is_taken(published: Path, tmp_path: Path) -> None:
    root = copied(published, "karpathy", tmp_path)
    (root / "results_20130124.token").write_text(TOKENS)
    (root / "results.csv").write_text(CSV)
    assert len(load_pairs(root).images) == 2
    assert len(load_pairs(root, split="karpathy").images) == 3
    assert len(load_pairs(root / "dataset_flickr30k.json").images) == 3
    said = refusal(load_pairs, root / "results_20130124.token", split="karpathy")
    assert "has no split: split=karpathy needs" in said
    (root / "dataset_flickr30k.json").unlink()
    said = refusal(load_pairs, root, split="karpathy", format="flickr30k")
    assert "has no dataset_flickr30k.json" in said


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"10002456.jpg#1\tagain", "line 5: caption 1 of '10002456.jpg' occurs twice"),
        (b"10002456.jpg#2 no tab", "line 5: not image#number, a tab and a caption"),
        (b"10002456.jpg\tno number", "line 5: not image#number, a tab and a caption"),
        (b"#2\tno name", "line 5: not image#number, a tab and a caption"),
        (b"10002456.jpg#2\t   ", "line 3: a caption of 'flickr30k-images/10002456.jpg' is empty"),
        (b"10002456.jpg#2\tcaf\xe9", "line 5: not UTF-8"),
        (b"../../x.jpg#0\tout", "'flickr30k-images/../../x.jpg' leaves the folder"),
        (b"a\x00b.jpg#0\tnull", "leaves the folder"),
        *(
            (line, "results.csv line 6: not image| number| caption")
            for line in (b"10002456.jpg", b"1.jpg| two| x", b"1.jpg| nothing here", b"1.jpg||")
        ),
    ],
)
def test_a_broken_line(tmp_path: Path, line: bytes, problem: str) -> None:
    of_csv = problem.startswith("results.csv")
    file = tmp_path / ("results.csv" if of_csv else "results_20130124.token")
    file.write_bytes((CSV if of_csv else TOKENS).encode() + line + b"\n")
    with pytest.warns(MmpoisonWarning, match="left out: "):
        pairs = load_pairs(tmp_path)
    (said,) = pairs.problems
    assert problem in said
    assert len(pairs) == 4


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "results_20130124.token"
    file.write_text(TOKENS, encoding="utf-16")
    said = refusal(load_pairs, tmp_path)
    assert "contains no images (results_20130124.token line 1: not" in said
    file.write_text(TOKENS, encoding="utf-8-sig")
    assert load_pairs(tmp_path).images.ids[0] == "flickr30k-images/1000092795.jpg"


def test_a_results_csv_of_another_kind_is_not_recognised(tmp_path: Path) -> None:
    recognise = DATASETS["flickr30k"].recognise
    assert recognise is not None
    file = tmp_path / "results.csv"
    for content, found in ((CSV, "results.csv"), ("epoch,loss\n1,0.5\n", None)):
        file.write_text(content)
        assert recognise(tmp_path) == recognise(file) == found


# -- PASCAL Sentences ------------------------------------------------------------------------------


def by_name(pairs: PairDataset) -> dict[str, dict[str, Any]]:
    return {line.pop("image").rpartition("/")[2]: line for line in pairs.lines()}


@pytest.fixture
def entries(tmp_path: Path) -> dict[str, Any]:
    """The entries of one JSON, for whom other layouts are made."""
    write_pascal(tmp_path / "json")
    found: dict[str, Any] = json.loads((tmp_path / "json" / "pascal_sentences.json").read_text())
    return found


@pytest.fixture
def scraped(tmp_path: Path, entries: dict[str, Any]) -> Path:
    """The layout that the usual script writes: `dataset/` and `sentence/`, a folder for each class."""
    folder = tmp_path / "scraped"
    for name, entry in entries.items():
        for kind in ("dataset", "sentence"):
            (folder / kind / entry["category"]).mkdir(parents=True, exist_ok=True)
        (folder / "dataset" / entry["category"] / name).touch()
        file = (folder / "sentence" / entry["category"] / name).with_suffix(".txt")
        file.write_text("\n".join(entry["captions"]) + "\n")
    return folder


def test_every_layout_gives_the_same(scraped: Path, entries: dict[str, Any]) -> None:
    json_file = scraped.parent / "json" / "pascal_sentences.json"
    wanted = by_name(load_pairs(json_file))
    # the halves do not hang on the order of the file
    json_file.write_text(json.dumps(dict(reversed(entries.items()))))
    assert by_name(load_pairs(json_file)) == wanted
    assert by_name(load_pairs(scraped)) == wanted
    # the script forgets the dot: `2008_000000txt`
    for file in sorted((scraped / "sentence").glob("*/*.txt")):
        file.rename(file.with_name(file.stem + "txt"))
    assert by_name(load_pairs(scraped)) == wanted
    # the original site: folders of classes beside the page
    for label in CLASSES:
        (scraped / "dataset" / label).rename(scraped / label)
    (scraped / "dataset").rmdir()
    assert by_name(load_pairs(scraped)) == wanted
    rows = "".join(
        f'<tr><td><img src="{entry["category"]}/{name}"></td><td><table>'
        + "".join(f"<tr><td> {text.replace('2008', '<b>2008</b>')}\n" for text in entry["captions"])
        + "</table></td></tr>\n"
        for name, entry in entries.items()
    )
    rows += '<tr><td><img src="logo.png"></td></tr>'
    page = f"<html><body><h1>Pascal <b>Sentences</b></h1><table>{rows}</table></body></html>"
    (scraped / "index.html").write_text(page)
    (scraped / "sentence").rename(scraped / "elsewhere")
    from_page = load_pascal_sentences(scraped)
    (said,) = from_page.problems
    assert said == "index.html: image 'logo.png' has no class folder or no sentence"
    assert by_name(from_page) == wanted


def test_missing_images_leave_the_halves_and_the_json_alone_keeps_every_entry(
    entries: dict[str, Any], tmp_path: Path
) -> None:
    root = tmp_path / "json"
    (root / "images").mkdir()
    for name in list(entries)[::3]:
        (root / "images" / name).touch()
    whole = by_name(load_pairs(root / "pascal_sentences.json"))
    assert len(whole) == 80
    some = by_name(load_pascal_sentences(root))
    assert len(some) == 27
    assert all(whole[name] == line for name, line in some.items())


def test_a_path_that_climbs(published: Path, tmp_path: Path) -> None:
    file = copied(published, "pascal-sentences", tmp_path) / "pascal_sentences.json"
    entry = '{"category": "sheep", "captions": ["x"]}'
    file.write_text(file.read_text()[:-1] + f', "../../up.jpg": {entry}}}')
    pairs = load_pascal_sentences(file.parent)
    (up,) = pairs.problems
    assert "'images/../../up.jpg' leaves the folder" in up
    assert len(pairs) == 400


def test_broken_sentences_of_folders(scraped: Path) -> None:
    folder = scraped / "sentence" / "aeroplane"
    (folder / "2008_000000.txt").write_bytes(b"caf\xe9")
    (folder / "2008_000001.txt").write_text("\n \n")
    (scraped / "dataset" / "aeroplane" / "2008_000002.jpg").unlink()
    said = ["sentence/aeroplane/2008_000000.txt: not UTF-8"]
    said.append("sentence/aeroplane/2008_000001.txt: has no sentence")
    try:
        (scraped / "sentence" / "caf\udce9").mkdir()
        (scraped / "sentence" / "caf\udce9" / "1.txt").write_text("x")
        said.append("'sentence/caf\\udce9/1.txt': a name that is not UTF-8")
    except (OSError, UnicodeError):
        pass  # the file system has no such names
    pairs = load_pascal_sentences(scraped)
    assert len(pairs.images) == 77
    *broken, missing = pairs.problems
    assert broken == said
    assert "1 of 78 images are not under" in missing


# -- the two together ------------------------------------------------------------------------------


def test_the_other_spelling_and_karpathys_split(published: Path, tmp_path: Path) -> None:
    flickr = copied(published, "karpathy", tmp_path).rename(tmp_path / "flickr30k")
    (flickr / "images").mkdir()
    (flickr / "images" / "3.jpg").touch()
    (tmp_path / "pascal_sentences").symlink_to(published / "pascal-sentences")
    with pytest.warns(MmpoisonWarning, match="2 of 3 images are not under"):
        pairs = load_dataset("flickr-pascal", tmp_path)
    # whatever Karpathy's split says, all of Flickr30k is trained on
    assert len(pairs.images.indices(split="train")) == 1 + 40
    assert pairs.images.ids[-1].startswith("pascal_sentences/images/")


# -- real data -------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not (SHARED / "pascal_sentences" / "pascal_sentences.json").is_file(),
    reason=f"pascal_sentences is not at {SHARED} (set MMPOISON_SHARED_DATA)",
)
def test_the_real_sentences_as_in_table_9() -> None:
    whole = load_pairs(SHARED / "pascal_sentences" / "pascal_sentences.json")
    assert whole.problems == ()
    assert (len(whole.images), len(whole), len(set(whole.captions))) == (1000, 4998, 4987)
    assert whole.classes == CLASSES
    for split in ("train", "test"):
        codes = whole.images.class_codes[whole.images.indices(split=split)]
        assert np.bincount(codes).tolist() == [25] * 20
    some = load_pascal_sentences(SHARED / "pascal_sentences")
    assert (len(some.images), len(some)) == (136, 680)
    assert "864 of 1,000 images" in some.problems[0]
    lines = by_name(whole)
    assert all(lines[name] == line for name, line in by_name(some).items())
