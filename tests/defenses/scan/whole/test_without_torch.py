"""Embeddings that exist are scanned without torch: with what `requirements/light.txt` installs, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
LIGHT = ROOT / "requirements" / "light.txt"

BLOCKED = """
import sys
from importlib import metadata

allowed = set(sys.argv.pop(1).split(","))
packages = metadata.packages_distributions()

class Blocked:
    def find_spec(self, name, path=None, target=None):
        owners = packages.get(name.partition(".")[0], [])
        if owners and not any(owner.lower().replace("_", "-") in allowed for owner in owners):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from mmpoison.cli import main
main()
"""


def needs() -> dict[str, str]:
    """Packages of the light set, each with its lower bound."""
    lines = LIGHT.read_text("utf-8").splitlines()
    found = (re.fullmatch(r"([\w-]+)(>=[\d.]+)", line) for line in lines if line[0] != "#")
    return {match[1]: match[2] for match in found if match is not None}


def with_what_they_need(names: set[str]) -> set[str]:
    """Distributions with all that they require, extras apart."""
    found: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another system or version of Python
        todo |= {re.split(r"[^\w.-]", one)[0] for one in required if "extra ==" not in one}
    return found


def test_the_bounds_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for name, bound in needs().items():
        if name != "fsspec":  # it comes with torch
            assert f"{name}{bound}" in project["dependencies"]
    assert not {"torch", "open_clip_torch"} & set(needs())


@pytest.mark.slow
def test_a_scan_of_embeddings_needs_nothing_else(
    corpus: tuple[Path, set[str]], tmp_path: Path
) -> None:
    allowed = with_what_they_need(set(needs())) | {"mmpoison"}
    assert "torch" not in allowed
    folder, _ = corpus
    command = [sys.executable, "-c", BLOCKED, ",".join(allowed)]
    out = tmp_path / "scan"
    scan = ["scan", str(folder), "--out", str(out), "--workers", "1", "--no-planted"]
    done = subprocess.run([*command, *scan], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "scan.json").read_text("utf-8"))["verdict"]
    assert list(out.glob("keep*"))
    # what needs more says so in one line
    model = subprocess.run(
        [*command, "models", "show", "openmoji-mini"], capture_output=True, text=True, check=False
    )
    assert model.returncode == 1
    assert re.search("the package (torch|safetensors) is missing", model.stderr)
