"""Named pipes, sockets and devices in the place of files: refused in one line, never waited for."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import write_parquet_set, write_tar_set

from mmpoison.datasets import ImageTable, PairDataset, load_pairs, save_pairs
from mmpoison.datasets.verify import verify_pairs
from mmpoison.errors import InputError
from mmpoison.images import BrokenImage, read_image
from mmpoison.pairs.folder import ImagePolicy

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

PASCAL = '{"a.jpg": {"category": "sheep", "captions": ["a"]}}'
KARPATHY = '{"images": [{"filename": "1.tif", "split": "train", "sentences": [{"raw": "a"}]}]}'
COCO = '{"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}'

# format, files, options; each file in turn becomes a pipe
LAYOUTS: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("pairs-folder", {"captions.jsonl": '{"image": "1.jpg", "captions": ["a"]}\n'}, {}),
    ("csv", {"pairs.csv": "image,caption\n1.jpg,a\n"}, {}),
    ("flickr30k", {"results_20130124.token": "1.jpg#0\ta\n"}, {"missing": "keep"}),
    ("flickr30k", {"dataset_flickr30k.json": KARPATHY}, {"missing": "keep"}),
    ("pascal-sentences", {"pascal_sentences.json": PASCAL}, {"missing": "keep"}),
    (
        "pascal-sentences",
        {"sentence/sheep/a.txt": "a\n", "sentence/sheep/b.txt": "b\n"},
        {"missing": "keep"},
    ),
    (
        "rsicd",
        {"dataset_rsicd.json": KARPATHY, "txtclasses_rsicd/airport.txt": "1.tif\n"},
        {"missing": "keep"},
    ),
    ("ucm-captions", {"dataset.json": KARPATHY}, {"missing": "keep"}),
    ("coco", {"annotations/captions_val2017.json": COCO}, {"missing": "keep", "labels": "none"}),
    (
        "visual-genome",
        {"region_descriptions.json": '[{"id": 1, "regions": []}]', "image_data.json": "[]"},
        {"missing": "keep"},
    ),
    ("image-folder", {"sheep/1": "no image", "sheep/1.jpg": ""}, {}),
]


def within_seconds(work: Callable[[], Any], pipe: Path, seconds: float = 10) -> Any:
    """The result of a call, or its error; one that waits for a pipe is let go, and fails."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        with suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        with suppress(OSError):
            os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        thread.join(5)
        pytest.fail(f"waits for {pipe.name}")
    return outcome[0]


@pytest.mark.parametrize(
    ("name", "files", "options", "piped"),
    [
        pytest.param(name, files, options, piped, id=f"{name}-{Path(piped).name}")
        for name, files, options in LAYOUTS
        for piped in files
    ],
)
def test_a_pipe_for_any_file_of_a_format(
    tmp_path: Path, name: str, files: dict[str, str], options: dict[str, Any], piped: str
) -> None:
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    (tmp_path / piped).unlink()
    os.mkfifo(tmp_path / piped)
    got = within_seconds(lambda: load_pairs(tmp_path, format=name, **options), tmp_path / piped)
    if isinstance(got, Exception):
        assert isinstance(got, InputError), repr(got)
        assert len(str(got).splitlines()) == 1


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may be 100 characters long
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL = [(os.mkfifo, "a named pipe"), (listening, "a socket")]


@pytest.mark.parametrize(("make", "said"), SPECIAL)
def test_for_an_image(
    own_square_folder: Path, tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    image = own_square_folder / "sofa/03.png"
    image.unlink()
    make(image)
    got = within_seconds(lambda: read_image(own_square_folder, "sofa/03.png", 32), image)
    assert isinstance(got, BrokenImage)
    assert f"sofa/03.png: is {said}, not a regular file" in str(got)
    pairs = load_pairs(own_square_folder)
    found = within_seconds(lambda: verify_pairs(pairs), image)
    assert found.images["broken"]["unreadable"] == 1
    policies: tuple[ImagePolicy, ...] = ("link", "copy")
    for policy in policies:
        got = within_seconds(partial(save_pairs, pairs, tmp_path / "out", images=policy), image)
        assert isinstance(got, InputError)
        assert said in str(got)


def test_a_device_for_an_image() -> None:
    table = ImageTable.build(["null"], [None], ["train"], Path("/dev"))
    assert len(PairDataset.build(table, ["a"], [0]))
    with pytest.raises(BrokenImage, match="/dev/null: is a device, not a regular file"):
        read_image(Path("/dev"), "null", 32)


def test_shards(squares: PairDataset, tmp_path: Path) -> None:
    shards = ((write_parquet_set, "part-00001.parquet"), (write_tar_set, "00001.tar"))
    for write, name in shards:
        out = write(squares, tmp_path / "out", 28)
        whole = load_pairs(out)
        kept = [image for image in whole.images.ids if name not in image]
        (out / name).unlink()
        os.mkfifo(out / name)
        part = within_seconds(partial(load_pairs, out), out / name)
        assert list(part.images.ids) == kept
        shutil.rmtree(out)
