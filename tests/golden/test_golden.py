"""Runs the commands of `make_golden.py` and compares what they compute with version 0.1.0, to the last digit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
EXPECTED = HERE / "expected"


# one test and not one a command: processes that share the tests would each run all commands
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_commands_compute_what_version_0_1_0_computed(tmp_path: Path) -> None:
    script = str(HERE / "make_golden.py")
    asked = _python(script, "--environment")
    assert asked.returncode == 0, asked.stderr
    here = json.loads(asked.stdout)
    known = {folder: _read(folder / "environment.json") for folder in EXPECTED.iterdir()}
    fitting = [folder for folder, there in known.items() if there == here]
    if not fitting:
        pytest.skip(f"the last digits are those of {list(known.values())}, here is {here}")
    done = _python(script, str(tmp_path))
    assert done.returncode == 0, done.stderr
    expected = {file.name: _read(file) for file in fitting[0].glob("*.json")}
    # what has changed since is recorded again on one kind of processor, and removed from the folders of the others
    found = {name: _read(tmp_path / name) for name in expected}
    if differences := _differences(expected, found):
        pytest.fail("\n".join(differences))  # an assertion would show the first of them only


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def _read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def _differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Places where two JSON values differ, a line each."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted({*expected, *found})
        return [
            line
            for key in keys
            for line in _differences(
                expected.get(key, "absent"), found.get(key, "absent"), f"{where}/{key}"
            )
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            line
            for place, (one, other) in enumerate(zip(expected, found, strict=True))
            for line in _differences(one, other, f"{where}/{place}")
        ]
    same = type(expected) is type(found) and expected == found
    return [] if same else [f"{where}: expected {expected!r}, found {found!r}"]
