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
def done_well(mmpoison: Run) -> Callable[[str], str]:
    """A function that runs a command that succeeds; gives what it prints."""

    def run(command: str) -> str:
        done = mmpoison(command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def environment(site: Path | None) -> dict[str, str]:
    """The variables of a process that has a folder on its path."""
    places = [Path(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    path = os.pathsep.join(str(place.absolute()) for place in (*places, *([site] if site else [])))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "300"}


def warned(done: subprocess.CompletedProcess[str], kind: str) -> None:
    """Each plug-in of a kind that cannot be used is one line."""
    for said in BROKEN[kind]:
        assert sum(said in line for line in done.stderr.splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_defence_is_listed_and_filters(
    mmpoison: Run,
    done_well: Callable[[str], str],
    square_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    listed = mmpoison("defenses")
    assert listed.returncode == 0, listed.stderr
    for name, there in (("odd-captions", True), ("local-density", True), ("half-done", False)):
        assert (name in listed.stdout) == there
    warned(listed, "defenses")
    options = f"--encoder {checkpoint} --lose 0.2 --method odd-captions --out scan"
    done_well(f"scan {square_folder} {options}")
    facts = json.loads((tmp_path / "scan" / "scan.json").read_text())
    assert facts["method"] == "odd-captions"
    assert 0 < facts["dropped"] < facts["pairs"]


@pytest.mark.slow
def test_each_kind_of_defence_is_selected_on_the_command_line(
    mmpoison: Run,
    done_well: Callable[[str], str],
    square_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    given = f"--data {square_folder} --model {checkpoint}"
    options = "--set batch_size=32 --set max_steps=1 --defense half-rate --set share=0.25"
    done_well(f"train {given} --out trained {options}")
    card = (tmp_path / "trained" / "README.md").read_text()
    assert "defence: half-rate {'share': 0.25}" in card
    line = json.loads((tmp_path / "trained" / "logs" / "steps.jsonl").read_text().splitlines()[0])
    assert line["learning_rate"] == pytest.approx(2.5e-6)

    repair = f"sterilize {given} --split train --method jitter"
    done_well(f"{repair} --out repaired --set scale=1e-6 --held-out 0.8")
    assert "repair: jitter" in (tmp_path / "repaired" / "README.md").read_text()
    curve = json.loads((tmp_path / "repaired" / "sterilize-curve.json").read_text())
    assert [probe["step"] for probe in curve["branches"][0]["looks"]] == [0, 0]
    check = f"check {checkpoint} --data {square_folder} --method confusions"
    found = json.loads(done_well(f"{check} --set least=0.01 --json"))
    assert found["check"] == "confusions"
    assert all(row["share"] >= 0.01 for row in found["ranking"])
    assert "Most unusual findings of check confusions" in done_well(check)
    for command, says in (
        (f"{repair} --out other --set scael=1", "did you mean 'scale'"),
        (f"{repair} --out other --set epochs=2", "unknown option"),
        (f"{check} --clean-runs 2 --out check", "needs --reference to use clean fine-tunes"),
    ):
        done = mmpoison(command)
        assert done.returncode == 2
        assert says in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_plug_ins_of_every_kind_run_a_recipe(
    mmpoison: Run, done_well: Callable[[str], str], tmp_path: Path
) -> None:
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
    done = mmpoison("run fruit.yaml --out run --no-models")
    assert done.returncode == 0, done.stderr
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
    assert "| Robust |" in done_well("report run --as markdown")
    for kind in ("attacks", "models"):
        warned(done, kind)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (
            "poison {squares} --attack no-such-module --goal sheep2sofa --samples 2 --out out",
            BROKEN["attacks"][0],
        ),
        ("models show leaves", BROKEN["models"][0]),
        ("data verify bad-fruit", BROKEN["datasets"][0]),
    ],
)
def test_asking_for_a_broken_one_is_one_line(
    mmpoison: Run, command: str, says: str, square_folder: Path, tmp_path: Path
) -> None:
    done = mmpoison(command.format(squares=square_folder))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"mmpoison: {says}")
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
