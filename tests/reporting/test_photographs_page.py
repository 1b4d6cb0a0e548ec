"""The report of a run on everyday photographs: ten queries side by side, made on this machine from its own copy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.conftest import SHARED

from mmpoison import run
from mmpoison.reporting.html_report import write_report


@pytest.mark.slow
@pytest.mark.skipif(
    not (SHARED / "flickr8k" / "captions.jsonl").is_file(),
    reason=f"the photographs are not at {SHARED} (set MMPOISON_SHARED_DATA)",
)
def test_ten_queries_side_by_side(tmp_path: Path) -> None:
    changes = {
        "data.options": {"unlabelled": 0, "train_share": 0.6},
        "model": {"name": "openmoji-mini"},
        "attack.samples": 5,
        "training": {"epochs": 1, "trainable": "text-head", "warmup_epochs": 0},
        "filter": None,
        "sterilize": None,
    }
    out = tmp_path / "run"
    run("flickr8k", data_root=SHARED, out=out, changes=changes, save_models=False, progress=False)
    page = write_report(out).read_text("utf-8")
    queries = page.split('<article class="query">')[1:]
    assert len(queries) == 10
    for query in queries:
        # ten photographs for the clean model, ten for the poisoned one, and all of them lie in the page
        assert query.count('<li class="thumb') == 20
    assert not re.findall(r'<img[^>]+src="(?!data:)', page)
