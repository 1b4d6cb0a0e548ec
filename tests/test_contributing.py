"""The walk through the files in CONTRIBUTING.md leads along functions that are there; its attack is one."""

from __future__ import annotations

import importlib
import re
import runpy
from functools import reduce
from pathlib import Path

import pytest

from mmpoison.attacks import ATTACKS, build_attack
from mmpoison.pairs.table import PairDataset

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\| `([\w/]+)\.py` \| `([\w.]+)` \|", TEXT, flags=re.MULTILINE)


def test_every_step_of_the_walk_is_there() -> None:
    assert STEPS
    for file, function in STEPS:
        module = importlib.import_module(f"mmpoison.{file.replace('/', '.')}")
        assert callable(getattr(module, function.split(".")[0])), (file, function)
        reduce(getattr, function.split("."), module)


def test_the_example_attack_registers_and_poisons(
    monkeypatch: pytest.MonkeyPatch, squares: PairDataset, tmp_path: Path
) -> None:
    monkeypatch.setattr(ATTACKS, "_items", dict(ATTACKS))
    (code,) = re.findall(r"### An attack\n.*?```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (tmp_path / "my_attack.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "my_attack.py"))
    attack = build_attack("my-attack", ["sheep2sofa"], {"samples": 2})
    ATTACKS._check("my-attack", {})  # has all that a registered attack needs
    poisoned = attack.poison(squares)
    assert poisoned.manifest is not None
    assert poisoned.manifest.attack == "my-attack"
    assert poisoned.poisoned.any()
