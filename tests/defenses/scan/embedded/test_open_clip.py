"""open_clip's own loader reads the kept pairs, with the file that `docs/reference/scan.md` shows."""

from __future__ import annotations

import io
import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.conftest import write_tar
from tests.defenses.scan.embedded.conftest import make_pairs
from tests.defenses.scan.embedded.test_keep_lists import save_subset

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
