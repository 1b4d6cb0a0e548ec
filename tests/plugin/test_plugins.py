"""Plug-ins of another installed package: found by their entry points, and harmless where they are broken.

`site` holds a small package with its dist-info, as pip would have installed it. Processes of their own have it on the
path, so that the registries of the other tests stay as they are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TASKS = Path(__file__).parents[2] / "docs" / "tasks"
BROKEN = {
    "defenses": [
        "defence 'half-done' of package fruit-plugin 1.2 cannot be used "
        "(ValueError: 'half-done' has no attribute 'kind')"
    ],
    "attacks": [
        "attack 'no-such-module' of package fruit-plugin 1.2 cannot be used (ModuleNotFoundError: ",
        "attack 'single-target-label' of package fruit-plugin 1.2 cannot be used "
        "(ValueError: two attacks have the name ",
    ],
    "datasets": [
        "data set 'bad-fruit' of package fruit-plugin 1.2 cannot be used (ValueError: its module registers no new "
    ],
    "models": ["model 'leaves' of package fruit-plugin 1.2 cannot be used (SystemExit: 3)"],
}


RECIPE = {
    "name": "fruit",
    "data": {"name": "two-colours", "root": "squares", "options": {"each": 9}},
    "model": {"name": "mini-again"},
    "attack": {"name": "class-swap", "goal": "cherry2lime", "samples": 2},
    "training": {"epochs": 1, "batch_size": 8, "max_steps": 1},
    "filter": {"method": "odd-captions", "encoder": "pretrained"},
    "robust_training": {"method": "half-rate", "share": 0.25},
    "sterilize": {"method": "jitter", "scale": 0.1},
    "check": {"method": "confusions", "least": 0.01},
}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, with the attack and the check of the documentation in it."""
    folder = tmp_path_factory.mktemp("plugins") / "site"
    shutil.copytree(Path(__file__).parent / "site", folder)
    for page, section, name in (
        ("write-a-plugin", "Attack", "class_swap"),
        ("write-a-defence", "Check", "confusions"),
    ):
        text = (TASKS / f"{page}.md").read_text(encoding="utf-8")
        part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        blocks = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
        (whole,) = [block for block in blocks if block.startswith('"""')]
        (folder / "fruit_plugin" / f"{name}.py").write_text(whole, encoding="utf-8")
    return folder


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def python(site: Path, tmp_path: Path) -> Run:
    """A function that runs Python in an empty folder with the package on the path."""

    def run(*arguments: str, plugged: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        options: Any = {"cwd": tmp_path, "capture_output": True, "text": True}
        return subprocess.run(command, env=environment(site if plugged else None), **options)

    return run


@pytest.fixture
def mmpoison(python: Run) -> Run:
    """A function that runs the command line so."""
    return lambda command, **more: python("-m", "mmpoison", *command.split(), **more)


def environment(site: Path | None) -> dict[str, str]:
    """The variables of a process that has a folder on its path."""
    places = [Path(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    path = os.pathsep.join(str(place.absolute()) for place in (*places, *([site] if site else [])))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "300"}


def warned(err: str, kind: str) -> None:
    """Each plug-in of a kind that cannot be used is one line."""
    for said in BROKEN[kind]:
        assert sum(said in line for line in err.splitlines()) == 1, err
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_command_line_takes_plug_ins_of_every_kind(
    python: Run, square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """All in one process, which takes seconds to start."""
    (tmp_path / "fruit.yaml").write_text(json.dumps(RECIPE))
    (tmp_path / "squares").mkdir()
    given = f"--data {square_folder} --model {checkpoint}"
    scan = f"scan {square_folder} --encoder {checkpoint} --lose 0.2 --method odd-captions"
    options = "--set batch_size=32 --set max_steps=1 --defense half-rate --set share=0.25"
    repair = f"sterilize {given} --split train --method jitter"
    check = f"check {checkpoint} --data {square_folder} --method confusions"
    poison = f"poison {square_folder} --attack no-such-module --goal sheep2sofa --samples 2"
    wrong = {
        f"{repair} --out other --set scael=1": "did you mean 'scale'",
        f"{repair} --out other --set epochs=2": "unknown option",
        f"{check} --clean-runs 2 --out check": "needs --reference to use clean fine-tunes",
        f"{poison} --out other": f"mmpoison: {BROKEN['attacks'][0]}",
        "models show leaves": f"mmpoison: {BROKEN['models'][0]}",
        "data verify bad-fruit": f"mmpoison: {BROKEN['datasets'][0]}",
    }
    good = (
        *("defenses", f"{scan} --out scan", f"train {given} --out trained {options}"),
        *(f"{repair} --out repaired --set scale=1e-6 --held-out 0.8", check),
        *(f"{check} --set least=0.01 --json", "run fruit.yaml --out run --no-models"),
        "report run --as markdown",
    )
    program = str(Path(__file__).parents[1] / "bare_install.py")
    done = python(program, json.dumps([command.split() for command in (*good, *wrong)]))
    assert done.returncode == 0, done.stderr
    every: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    listed, _, _, _, shown, found, _, report, *refused = every
    for each in every[: len(good)]:
        assert each["code"] == 0, each
    for name, there in (("odd-captions", True), ("local-density", True), ("half-done", False)):
        assert (name in listed["out"]) == there
    facts = json.loads((tmp_path / "scan" / "scan.json").read_text())
    assert facts["method"] == "odd-captions"
    assert 0 < facts["dropped"] < facts["pairs"]
    card = (tmp_path / "trained" / "README.md").read_text()
    assert "defence: half-rate {'share': 0.25}" in card
    line = json.loads((tmp_path / "trained" / "logs" / "steps.jsonl").read_text().splitlines()[0])
    assert line["learning_rate"] == pytest.approx(2.5e-6)
    assert "repair: jitter" in (tmp_path / "repaired" / "README.md").read_text()
    curve = json.loads((tmp_path / "repaired" / "sterilize-curve.json").read_text())
    assert [probe["step"] for probe in curve["branches"][0]["looks"]] == [0, 0]
    answer = json.loads(found["out"])
    assert answer["check"] == "confusions"
    assert all(row["share"] >= 0.01 for row in answer["ranking"])
    assert "Most unusual findings of check confusions" in shown["out"]
    for each, says in zip(refused, wrong.values(), strict=True):
        assert each["code"] == 2
        assert says in each["err"].splitlines()[-1]
    assert not (tmp_path / "other").exists()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["run"]["attack"] == "class-swap"
    assert metrics["run"]["filter"]["method"] == "odd-captions"
    assert metrics["run"]["robust_training"] == {"method": "half-rate", "share": 0.25}
    jitter = {"method": "jitter", "scale": 0.1, "pairs": 2, "steps": 0}
    assert metrics["run"]["sterilize"] == jitter
    assert set(metrics["goal"]) == {"cherry2lime", "lime2cherry"}
    for rows in metrics["goal"].values():
        assert {"poisoned", "filtered", "robust", "sterilized"} <= set(rows)
    checks = json.loads((tmp_path / "run" / "model-check.json").read_text())
    assert set(checks) == {"clean_model", "poisoned", "filtered", "robust", "sterilized"}
    assert metrics["run"]["scan"]["method"] == "confusions"
    assert (tmp_path / "run" / "logs" / "robust" / "steps.jsonl").is_file()
    assert "| Robust |" in report["out"]
    # what is not asked for is not imported, so that another package's fault is no news here
    warned("\n".join(each["err"] for each in every[: len(good)]), "defenses")


def test_a_module_that_fails_half_way_registers_nothing(python: Run) -> None:
    code = "from mmpoison.attacks import ATTACKS; print(sorted(ATTACKS), ATTACKS['single-target-label'])"
    done = python("-c", code)
    assert "also-registered" not in done.stdout
    assert "class-swap" in done.stdout
    assert "SingleTargetLabel" in done.stdout
    warned(done.stderr, "attacks")


def test_without_the_package_there_is_nothing_of_it(mmpoison: Run) -> None:
    done = mmpoison("defenses", plugged=False)
    assert "odd-captions" not in done.stdout
    assert done.stderr == ""
