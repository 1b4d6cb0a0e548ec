"""The walk through the files in CONTRIBUTING.md leads along functions that are there."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\| `([\w/]+)\.py` \| `([\w.]+)` \|", TEXT, flags=re.MULTILINE)


def test_every_step_of_the_walk_is_there() -> None:
    parts = TEXT.partition("`mmpoison evaluate --model trained")
    assert [len(re.findall(r"^\| `[\w/]+\.py` \|", part, re.M)) for part in parts[::2]] == [9, 10]
    for file, function in STEPS:
        module = importlib.import_module(f"mmpoison.{file.replace('/', '.')}")
        assert callable(getattr(module, function.split(".")[0])), (file, function)
        reduce(getattr, function.split("."), module)
