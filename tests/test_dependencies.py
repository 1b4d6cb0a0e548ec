"""The lower bounds of the dependencies let in no release with a known hole, and are themselves what is tested."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# The first release without the hole, of the latest of each package. A row is only ever added or raised.
HOLES = {
    "CVE-2025-3000: memory overwritten by TorchScript": ("torch", "2.13"),
    "CVE-2026-59197 and others: heap overflow in image readers": ("pillow", "12.3"),
    "CVE-2026-25087: use after free in Arrow files": ("pyarrow", "23.0.1"),
    "CVE-2026-22701: a symbolic link in place of the lock": ("filelock", "3.20.3"),
    "CVE-2025-27516: a way out of the sandbox": ("jinja2", "3.1.6"),
    "CVE-2026-9856: a saved tokenizer writes outside its folder": ("transformers", "5.10"),
    "loading scripts of a data set are run": ("datasets", "4.0"),
    "CVE-2025-4565: endless recursion in protobuf": ("tensorboard", "2.16"),
    "CVE-2026-4137: code in artifacts that others may write": ("mlflow", "3.11"),
    "CVE-2026-25645: a file in place of the unpacked one": ("requests", "2.33"),
    "CVE-2024-5206: training data inside a saved vectoriser": ("scikit-learn", "1.5"),
    "CVE-2026-54283: the path changes the host": ("starlette", "1.3.1"),
    "CVE-2026-57516: code in tar shards": ("ray", "2.56"),
    "CVE-2025-71176: temporary folders of another user": ("pytest", "9.0.3"),
}


def _requirements(*without: str) -> list[Requirement]:
    """All direct dependencies, those of the extras too."""
    texts = [*PROJECT["dependencies"]]
    for extra, more in PROJECT["optional-dependencies"].items():
        texts += [] if extra in without else more
    found = [Requirement(text) for text in texts]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def _lowest() -> dict[str, Version]:
    lines = (ROOT / "requirements" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    return {canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins}


@pytest.mark.parametrize("hole", HOLES)
def test_no_bound_lets_in_a_known_hole(hole: str) -> None:
    name, fixed = HOLES[hole]
    ours = [each for each in _requirements() if canonicalize_name(each.name) == name]
    assert ours, f"{name} is no dependency any more: take its row out"
    for requirement in ours:
        bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        assert bounds, f"{requirement} has no lower bound"
        assert max(bounds) >= Version(fixed), f"{requirement} lets in {hole}"


def test_the_lowest_versions_are_the_ones_that_are_tested() -> None:
    """What `make test-matrix` installs is each bound itself, not something above it."""
    lowest = _lowest()
    for requirement in _requirements("docs", "mlflow", "wandb"):
        version = lowest[canonicalize_name(requirement.name)]
        bounds = {Version(each.version) for each in requirement.specifier}
        assert bounds == {version}, f"{requirement}: run `make lowest` ({version} is tested)"
