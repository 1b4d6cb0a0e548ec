"""The Makefile, and the workflow on GitHub, which nobody can run here: it runs only targets of the Makefile."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z]+) \?=", MAKEFILE, flags=re.MULTILINE))


def _steps() -> list[dict[str, Any]]:
    return [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_every_command_is_a_target_of_the_makefile() -> None:
    commands = [step["run"] for step in _steps() if "run" in step]
    assert len(commands) == len(WORKFLOW["jobs"])
    for command in commands:
        assert "\n" not in command.strip()
        make, target, *settings = command.split()
        assert make == "make"
        assert target in TARGETS, f"{command}: the Makefile has no such target"
        for setting in settings:
            name, value = setting.split("=")
            assert name in VARIABLES, f"{command}: the Makefile has no such variable"
            assert (ROOT / value).is_file()


def test_all_that_is_wanted_is_run() -> None:
    commands = {step.get("run") for step in _steps()}
    assert {"make lint", "make test", "make docs", "make wheel"} <= commands
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == [
        "3.11",
        "3.12",
        "3.13",
        "3.14",
    ]


def test_what_ci_runs_here_is_run_there_too() -> None:
    """A step that is added to `.ci/run` is added to the workflow."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    here = set(re.findall(r"^make ([a-z-]+)", script, flags=re.MULTILINE))
    there = {step["run"].split()[1] for step in _steps() if "run" in step}
    assert here
    assert here <= there


def test_it_may_read_and_nothing_else() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    for job in WORKFLOW["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 90
    for step in _steps():
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), (
                "only GitHub's own, by major"
            )
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "secrets." not in text
    assert "pull_request_target" not in text


@pytest.mark.parametrize("target", ["docs", "clean"])
def test_an_environment_that_make_did_not_make_stays(tmp_path: Path, target: str) -> None:
    mine = tmp_path / ".venv" / "mine"
    mine.parent.mkdir()
    mine.touch()
    (tmp_path / "pyproject.toml").touch()
    make = ["make", "-f", str(ROOT / "Makefile"), "-C", str(tmp_path), target]
    # variables of the `make` that runs these tests would be passed on, and its VENV too
    own = {name: value for name, value in os.environ.items() if not re.match("MAKE|VENV", name)}
    done = subprocess.run(make, capture_output=True, text=True, check=False, env=own)
    assert mine.exists()
    if target == "docs":
        assert done.returncode == 2
        assert "make: .venv is there and was not made by this Makefile" in done.stderr
        assert "make docs VENV=.venv-mmpoison" in done.stderr
