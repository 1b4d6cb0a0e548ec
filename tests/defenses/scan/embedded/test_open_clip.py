"""open_clip's own loader reads the kept pairs, with the file that `docs/reference/scan.md` shows."""

from __future__ import annotations

import io
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.conftest import write_tar
from tests.defenses.scan.embedded.conftest import make_pairs
from tests.defenses.scan.embedded.test_keep_lists import save_subset

import mmpoison
from mmpoison.datasets.catalogue import NamedData
from mmpoison.pairs.table import PairDataset

data = pytest.importorskip("open_clip_train.data")

PAGE = Path(__file__).resolve().parents[4] / "docs" / "reference" / "scan.md"
PAIRS = make_pairs(30)


def code_of_the_page(names: str) -> str:
    """The Python block of the page that has some text in it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if names in block]
    return str(found)


def written(file: Path) -> Path:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "JPEG")
    members: dict[str, bytes] = {}
    for number, (key, uid) in enumerate(zip(PAIRS.keys, PAIRS.uids, strict=True)):
        # one is without an image, which open_clip leaves out by itself
        members |= {} if number == 3 else {f"{key}.jpg": picture.getvalue()}
        members |= {f"{key}.txt": str(number).encode()}
        members |= {f"{key}.json": json.dumps({"uid": uid}).encode()}
    return write_tar(file, members)


def read(tar: Path) -> list[int]:
    import torch

    args: Any = SimpleNamespace(
        val_data=str(tar), val_num_samples=len(PAIRS), batch_size=4, workers=0, world_size=1, seed=0
    )
    loader = data.get_wds_dataset(
        args,
        lambda image: torch.from_numpy(np.asarray(image).copy()),
        is_train=False,
        tokenizer=lambda text: [torch.tensor(int(text))],
    ).dataloader
    return [number for _, texts in loader for number in texts.tolist()]


def test_the_file_of_the_page_drops_while_open_clip_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = written(tmp_path / "00000.tar")
    (tmp_path / "scan").mkdir()
    save_subset(tmp_path / "scan" / "keep.npy", PAIRS.uids[::3])
    file = tmp_path / "train_kept.py"
    file.write_text(code_of_the_page("complete_and_kept"))
    monkeypatch.chdir(tmp_path)
    complete = data.filter_no_caption_or_no_image
    # is put back after the test
    monkeypatch.setattr(data, "filter_no_caption_or_no_image", complete)
    assert read(tar) == [number for number in range(30) if number != 3]
    runpy.run_path(str(file), run_name="train_kept")
    assert data.filter_no_caption_or_no_image is not complete
    assert read(tar) == [number for number in range(0, 30, 3) if number != 3]


def test_the_table_of_urls_is_written_without_the_dropped_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for folder in ("scan", "data/metadata"):
        (tmp_path / folder).mkdir(parents=True)
    pq.write_table(pa.table({"uid": PAIRS.uids[4:9]}), tmp_path / "scan" / "drop.parquet")
    own = {"uid": PAIRS.uids, "url": PAIRS.keys, "text": PAIRS.captions}
    pq.write_table(pa.table(own), tmp_path / "data" / "metadata" / "a.parquet")
    monkeypatch.chdir(tmp_path)
    exec(code_of_the_page("pc.invert"), {})
    left = pq.read_table(tmp_path / "urls" / "a.parquet")
    assert left["uid"].to_pylist() == [*PAIRS.uids[:4], *PAIRS.uids[9:]]
    assert left.column_names == ["uid", "url", "text"]


# -- a CSV, from the scan to the loader of the training ---------------------------------------------------------


@pytest.mark.parametrize(
    ("separator", "image", "caption", "start"),
    [
        ("\t", "filepath", "title", "{}/"),
        (",", "file", "text", "./"),
        (",", "image", "caption", "{}/"),
    ],
)
def test_open_clip_trains_on_a_csv_without_the_dropped_rows(
    separator: str, image: str, caption: str, start: str,
    squares: PairDataset, make_encoder: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Rows of one image, equal rows, other columns and values that pandas would change by default."""
    table = squares.select(split="train").to_pandas()[["label", "image", "caption"]]
    table["image"] = start.format(squares.root) + table["image"]
    more = [table.iloc[:20].assign(caption=text) for text in ("None", 'a "red", square')]
    table = pd.concat([table, table.iloc[::3], *more]).sort_values("caption")
    table["label"] = [f"{nr:03}" for nr in range(len(table))]
    csv_file, kept_file = tmp_path / "pairs.csv", tmp_path / "scan" / "kept.csv"
    table.columns = ["nr", image, caption]
    table.to_csv(csv_file, sep=separator, index=False)
    # the folder of absolute paths is found
    root = squares.root if start == "./" else None
    done = mmpoison.scan(
        NamedData(str(csv_file), root=root), encoder=make_encoder(7), method="relevance-filter",
        lose=0.2, out=tmp_path / "scan", planted=False, force=True, progress=False,
    )  # fmt: skip
    drop = pd.read_csv(tmp_path / "scan" / "drop.csv", dtype=str, keep_default_na=False)
    assert list(drop.columns) == ["nr", image, caption, "score", "group", "reason", "shard", "row"]
    gone = set(drop["nr"])
    lines = csv_file.read_text().splitlines()
    stay = [line for line, nr in zip(lines[1:], table["nr"], strict=True) if nr not in gone]
    assert kept_file.read_text().splitlines() == [lines[0], *stay]
    assert done.pairs == len(table)
    assert done.dropped == len(gone) == len(table) - len(stay) > 0
    args: Any = SimpleNamespace(
        train_data=str(kept_file), csv_img_key=image, csv_caption_key=caption,
        csv_separator=separator, distributed=False, batch_size=4, workers=0,
    )  # fmt: skip
    monkeypatch.chdir(squares.root)
    loader = data.get_csv_dataset(args, np.asarray, True, tokenizer=lambda text: text).dataloader
    assert loader.num_samples == len(stay)
    pixels, text = loader.dataset[-1]
    assert pixels.ndim == 3
    assert text in stay[-1]
