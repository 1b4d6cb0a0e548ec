"""The page of performance says what the benchmarks wrote, and nothing else."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmpoison.errors import InputError

ROOT = Path(__file__).parents[1]
MACHINE = {"processor": "x86_64 CPU AVX2", "bf16": "none", "cores": 2, "torch": "2.13.0"}


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench"]


def result(found: Any, **more: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "load_before": [0.1, 0, 0], "seconds": 60.0, "found": found} | more


def listed(bench: Any) -> tuple[Any, ...]:
    figures = (
        bench.Figure("how many", bench.at("deep", 1), form="{:,.0f}", goal=1000),
        bench.Figure("GiB", bench.at("peak"), "a peer", goal=2.0, least=False),
        bench.Figure("share", bench.at("share"), form="{:.0%}"),
    )
    return (
        bench.Benchmark("one", "One", ("one.py", "--quick"), "What it is.", figures, "Limits."),
    )


def test_a_page(bench: Any) -> None:
    found = {"deep": [0, 1234], "peak": 2.5, "share": 0.256}
    text = bench.page({"one": result(found)}, listed(bench))
    assert "2 cores without bf16 instructions (x86_64 CPU AVX2), torch 2.13.0" in text
    assert "python benchmarks/one.py --quick" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "|---" not in line]
    assert rows[1:] == [
        "| how many | 1,234 |  | at least 1,000: met |",
        "| GiB | 2.50 | a peer | at most 2.00: **missed** |",
        "| share | 26% |  |  |",
    ]
    assert "Limits." in text
    assert "busy" not in text
    assert "busy" not in bench.page({"one": result(found, load_before=[2.1, 1, 1])}, listed(bench))
    busy = bench.page({"one": result(found, load_before=[3.5, 1, 1])}, listed(bench))
    assert "The machine was busy before (load 3.5)." in busy


def test_figures_of_several_machines_are_refused(bench: Any) -> None:
    found = {"deep": [0, 1], "peak": 1, "share": 0}
    (one,) = listed(bench)
    two = bench.Benchmark("two", "Two", one.command, one.text, one.figures)
    other = result(found, machine=MACHINE | {"torch": "2.14.0"})
    with pytest.raises(InputError, match="results of 2 machines"):
        bench.page({"one": result(found), "two": other}, [one, two])
    with pytest.raises(InputError, match="results of 0 machines"):
        bench.page({}, [one])


def test_every_script_is_there(bench: Any) -> None:
    names = [one.name for one in bench.benchmarks()]
    assert len(set(names)) == len(names)
    for one in bench.benchmarks():
        assert (ROOT / "benchmarks" / one.command[0]).is_file()


def test_the_page_is_that_of_the_results(bench: Any) -> None:
    files = {file.stem: file for file in bench.RESULTS.glob("*.json")}
    assert set(files) <= {one.name for one in bench.benchmarks()}
    results = {name: json.loads(file.read_text("utf-8")) for name, file in files.items()}
    assert bench.page(results, bench.benchmarks()) == bench.PAGE.read_text("utf-8")
