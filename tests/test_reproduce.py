"""`make reproduce`: which commands it gives."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from mmpoison.experiments.recipe import shipped_recipes

FILE = Path(__file__).parents[1] / "benchmarks/reproduce.py"


@pytest.fixture(scope="module")
def reproduce() -> ModuleType:
    if not FILE.is_file():
        pytest.skip("the benchmarks are not in a built package")
    spec = importlib.util.spec_from_file_location("reproduce", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_twin_is_run(reproduce: ModuleType) -> None:
    names = reproduce.recipes([], photos=True)
    twins = {n for n in shipped_recipes() if n.endswith(("-openmoji", "-rsicd-ucm"))}
    assert set(names) == twins
    assert names[:2] == ["table-1-openmoji", "table-2-openmoji"]
    scenes = reproduce.recipes([], photos=False)
    assert set(scenes) == {n for n in twins if n.endswith("-openmoji")}
    assert reproduce.recipes(["figure-5b"], photos=True) == [
        "figure-5b-openmoji",
        "figure-5b-rsicd-ucm",
    ]


def test_the_commands(reproduce: ModuleType, tmp_path: Path) -> None:
    command = reproduce.run_command("table-6-rsicd-ucm", tmp_path, Path("photos"))
    assert command[:2] == ["run", "table-6-rsicd-ucm"]
    assert "transfer.data.root=photos/rsicd" in command
    for name in ("table-1-openmoji", "table-11-openmoji", "table-1-rsicd-ucm"):
        (tmp_path / name).mkdir()
    names = reproduce.recipes(["table-1"], photos=True)
    one, eleven, claims, parquet = reproduce.report_commands(names, tmp_path, tmp_path / "out")
    assert one[1:5] == [
        str(tmp_path / "table-1-openmoji"),
        str(tmp_path / "table-1-rsicd-ucm"),
        "--paper",
        "table-1",
    ]
    assert eleven[1:4] == [str(tmp_path / "table-11-openmoji"), "--paper", "table-11"]
    assert "--claims" in claims
    assert "--parquet" in parquet
