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


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, with the attack and the check of the documentation in it."""
    folder = tmp_path_factory.mktemp("plugins") / "site"
    shutil.copytree(Path(__file__).parent / "site", folder)
    for page, name in (("write-an-attack", "class_swap"), ("write-a-check", "confusions")):
        text = (TASKS / f"{page}.md").read_text(encoding="utf-8")
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
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


@pytest.fixture
def outcomes(python: Run) -> Callable[..., list[dict[str, Any]]]:
    """A function that runs several command lines in one process so; gives `code`, `out` and `err` of each."""
    program = str(Path(__file__).parents[1] / "bare_install.py")

    def run(*commands: str) -> list[dict[str, Any]]:
        done = python(program, json.dumps([command.split() for command in commands]))
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout.splitlines()[-1]))

    return run


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


Outcomes = Callable[..., list[dict[str, Any]]]


@pytest.mark.slow
def test_a_defence_is_listed_and_filters(
    outcomes: Outcomes, square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    options = f"--encoder {checkpoint} --lose 0.2 --method odd-captions --out scan"
    listed, scanned = outcomes("defenses", f"scan {square_folder} {options}")
    assert listed["code"] == scanned["code"] == 0, (listed, scanned)
    for name, there in (("odd-captions", True), ("local-density", True), ("half-done", False)):
        assert (name in listed["out"]) == there
    warned(listed["err"], "defenses")
    facts = json.loads((tmp_path / "scan" / "scan.json").read_text())
    assert facts["method"] == "odd-captions"
    assert 0 < facts["dropped"] < facts["pairs"]


@pytest.mark.slow
def test_each_kind_of_defence_is_selected_on_the_command_line(
    outcomes: Outcomes, square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    given = f"--data {square_folder} --model {checkpoint}"
    options = "--set batch_size=32 --set max_steps=1 --defense half-rate --set share=0.25"
    repair = f"sterilize {given} --split train --method jitter"
    check = f"check {checkpoint} --data {square_folder} --method confusions"
    wrong = {
        f"{repair} --out other --set scael=1": "did you mean 'scale'",
        f"{repair} --out other --set epochs=2": "unknown option",
        f"{check} --clean-runs 2 --out check": "needs --reference to use clean fine-tunes",
    }
    trained, repaired, found, shown, *refused = outcomes(
        f"train {given} --out trained {options}",
        f"{repair} --out repaired --set scale=1e-6 --held-out 0.8",
        f"{check} --set least=0.01 --json",
        check,
        *wrong,
    )
    for done in (trained, repaired, found, shown):
        assert done["code"] == 0, done
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
    for done, says in zip(refused, wrong.values(), strict=True):
        assert done["code"] == 2
        assert says in done["err"].splitlines()[-1]


@pytest.mark.slow
def test_plug_ins_of_every_kind_run_a_recipe(outcomes: Outcomes, tmp_path: Path) -> None:
    (tmp_path / "squares").mkdir()
    recipe: dict[str, Any] = {
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
    (tmp_path / "fruit.yaml").write_text(json.dumps(recipe))
    done, shown = outcomes("run fruit.yaml --out run --no-models", "report run --as markdown")
    assert done["code"] == shown["code"] == 0, (done, shown)
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
    assert "| Robust |" in shown["out"]
    for kind in ("attacks", "models"):
        warned(done["err"], kind)


def test_asking_for_a_broken_one_is_one_line(
    outcomes: Outcomes, square_folder: Path, tmp_path: Path
) -> None:
    poison = (
        f"poison {square_folder} --attack no-such-module --goal sheep2sofa --samples 2 --out out"
    )
    asked = {
        poison: BROKEN["attacks"][0],
        "models show leaves": BROKEN["models"][0],
        "data verify bad-fruit": BROKEN["datasets"][0],
    }
    for done, says in zip(outcomes(*asked), asked.values(), strict=True):
        assert done["code"] == 2
        assert done["err"].splitlines()[-1].startswith(f"mmpoison: {says}")
    assert not (tmp_path / "out").exists()


def test_a_module_that_fails_half_way_registers_nothing(python: Run) -> None:
    code = "from mmpoison.attacks import ATTACKS; print(sorted(ATTACKS), ATTACKS['single-target-label'])"
    done = python("-c", code)
    assert "also-registered" not in done.stdout
    assert "class-swap" in done.stdout
    assert "SingleTargetLabel" in done.stdout


def test_without_the_package_there_is_nothing_of_it(mmpoison: Run) -> None:
    done = mmpoison("defenses", plugged=False)
    assert "odd-captions" not in done.stdout
    assert done.stderr == ""
