"""The page of performance quotes the results of the benchmarks, and its verdicts on goals are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.test_docs_numbers import ROOT, script

from mmpoison.cli.app import VERBS
from mmpoison.errors import InputError

RESULTS = ROOT / "docs/results/performance"
PAGE = ROOT / "docs/performance.md"

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="not in a built package")


def results() -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text("utf-8")) for file in RESULTS.glob("*.json")}


def test_every_case_has_a_section_and_a_result() -> None:
    names = [case.__name__ for case in script("cases.table").ON_THE_PAGE]
    commands = re.findall(r"(?m)^    python benchmarks/bench\.py (\w+)$", PAGE.read_text("utf-8"))
    assert sorted(commands) == sorted(names)
    assert set(results()) == set(names)


def test_every_command_of_the_documentation_is_a_case() -> None:
    cases = script("cases.table").CASES
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"]
    text = "".join(file.read_text("utf-8") for file in pages)
    named = set(re.findall(r"benchmarks/bench\.py\s+([a-z]\w+)", text))
    assert named <= set(cases)
    scripts = set(re.findall(r"benchmarks/([\w/]+\.py)", text))
    assert [name for name in scripts if not (ROOT / "benchmarks" / name).is_file()] == []


def test_cases_use_verbs_that_are_there() -> None:
    text = "".join(f.read_text("utf-8") for f in (ROOT / "benchmarks/cases").glob("*.py"))
    used = re.findall(r'(?:_cost\(|\(mmpoison, |command = \[)"(\w+)"', text)
    assert "run" in used
    assert set(used) <= set(VERBS)


def test_a_section_quotes_its_own_result_of_one_machine() -> None:
    text = PAGE.read_text("utf-8")
    for section in text.split("\n## ")[1:]:
        (name,) = re.findall(r"bench\.py (\w+)", section)
        assert set(re.findall(r"<!--= performance/(\w+);", section)) == {name}
    machines = {json.dumps(result["machine"], sort_keys=True) for result in results().values()}
    (machine,) = map(json.loads, machines)
    bf16 = {"none": "without bf16 instructions", "AVX512": "with AVX512 bf16", "AMX": "with AMX"}
    assert f"{machine['cores']} cores {bf16[machine['bf16']]} ({machine['processor']})" in text
    assert f"torch {machine['torch']}." in text
    # the benchmark before keeps the cores busy itself
    busy = [r["load_before"][0] for r in results().values() if r["load_before"][0] > 2.5]
    assert re.findall(r"The machine was busy before \(load ([\d.]+)\)", text) == list(
        map(str, busy)
    )


def test_a_goal_is_met_or_missed() -> None:
    goals = re.findall(
        r"-->([-\d.,]+)%?<!--/-->.*\| at (least|most) ([\d.,]+)%?: (met|\*\*missed\*\*)",
        PAGE.read_text("utf-8"),
    )
    assert len(goals) >= 10
    for value, border, goal, verdict in goals:
        number, wanted = (float(text.replace(",", "")) for text in (value, goal))
        met = number >= wanted if border == "least" else number <= wanted
        assert verdict == ("met" if met else "**missed**"), (value, border, goal)


def test_sizes_are_read_as_their_defaults_are() -> None:
    harness = script("harness")

    def case(
        pairs: int = 1, rate: float = 0.1, memory: tuple[int, ...] = (1,), to: str = ""
    ) -> None:
        """Measure nothing."""

    read = harness.sizes(case, ["pairs=20", "rate=0.5", "memory=3,4", "to=a=b"])
    assert read == {"pairs": 20, "rate": 0.5, "memory": (3, 4), "to": "a=b"}
    with pytest.raises(InputError, match="case: no size 'pear', but pairs, rate, memory, to"):
        harness.sizes(case, ["pear=1"])


def test_ways_are_compared_round_by_round() -> None:
    import numpy as np

    times = {
        "ours": [[1.0, 2.0], [2.0, 2.0], [1.0, 2.0]],
        "peer": [[3.0, 2.0], [8.0, 4.0], [3.0, 4.0]],
    }
    found = script("harness").compared({name: np.array(each) for name, each in times.items()})
    assert found["seconds"]["ours"] == {"median": 1.0, "min": 1.0, "max": 2.0}
    assert found["ratio"] == {"peer": 3.0}
    assert found["cpu_ratio"] == {"peer": 2.0}


def test_a_row_that_is_there_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, file = script("rows"), tmp_path / "rows.json"
    measured: list[str] = []

    def job(goal: str) -> tuple[dict[str, Any], Any]:
        def measure() -> dict[str, Any]:
            measured.append(goal)
            return {"found": len(measured)}

        return {"goals": [goal]}, measure

    def summary(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {"all": {"rows": len(found)}}

    def killed() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows.resumed(file, [job("a"), ({"goals": ["b"]}, killed)], "kinds", summary)
    # a page must not be made of a part of the rows
    assert not file.exists()
    rows.resumed(file, [job("a")], "kinds", summary)
    rows.resumed(file, [job("a"), job("b")], "kinds", summary)
    assert measured == ["a", "b"]
    assert json.loads(file.read_text("utf-8")) == {
        "kinds": {"all": {"rows": 2}},
        "rows": [{"goals": ["a"], "found": 1}, {"goals": ["b"], "found": 2}],
    }
    assert "| all | 2 |" in capsys.readouterr().out
