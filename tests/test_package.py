"""The package as a whole: what it ships, that it starts quickly, where it parses text; `make lint` checks layers."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import pytest

import mmpoison

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "mmpoison"

# -- what is shipped -------------------------------------------------------------------------------


def test_version_is_the_installed_one() -> None:
    assert mmpoison.__version__ == metadata.version("mmpoison")


def test_version_is_in_the_changelog_and_the_citation() -> None:
    assert f"## [{mmpoison.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {mmpoison.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_is_typed() -> None:
    assert (files("mmpoison") / "py.typed").is_file()


def test_every_public_name_is_there() -> None:
    assert set(mmpoison.__all__) <= set(dir(mmpoison))
    for name in mmpoison.__all__:
        one = getattr(mmpoison, name)
        assert name == "__version__" or one.__doc__
    with pytest.raises(AttributeError, match="No mmpoison attribute SingleTargetLable"):
        getattr(mmpoison, "SingleTargetLable")  # noqa: B009


@pytest.mark.parametrize(
    "package",
    [
        "datasets",
        "defenses",
        "defenses.scan",
        "evaluation",
        "images",
        "models",
        "statistics",
        "training",
    ],
)
def test_what_flows_is_immutable(package: str) -> None:
    """A stage takes a table or a model and returns a new one; nobody changes what another one holds."""
    offered = importlib.import_module(f"mmpoison.{package}")
    classes = [getattr(offered, name) for name in offered.__all__]
    flow = [one for one in classes if not hasattr(one, "parameters")]  # plug-ins do the work
    made = [one for one in flow if dataclasses.is_dataclass(one) and isinstance(one, type)]
    assert made
    assert not [
        one.__name__
        for one in made
        if not one.__dataclass_params__.frozen  # type: ignore[attr-defined]
    ]


def test_licence_files_are_full() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in project["license-files"]:
        assert (ROOT / name).stat().st_size > 500, name
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for word in ("OpenMoji", "CC BY-SA 4.0", "MIT"):
        assert word in notice


# -- imports ---------------------------------------------------------------------------------------


def test_imports_without_torch() -> None:
    names = "api.inputs metrics datasets attacks defenses.scan images reporting pages.search"
    modules = ", ".join(f"mmpoison.{name}" for name in names.split())
    code = (
        f"import sys, {modules}; "
        "print([m for m in ('torch', 'open_clip', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from mmpoison.cli.app import app; "
        "print([m for m in ('torch', 'numpy', 'scipy', 'pyarrow', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What parses text may be fed by strangers: it is bounded in untrusted.py and its kin, and in these files for a reason.
PARSERS = {
    "base/untrusted.py": "the bounds",
    "base/content_cache.py": "the one place that reads arrays; nothing is unpickled",
    "datasets/formats/delimited.py": "reads on behind a broken record; bounds each line and record itself",
    "datasets/published/adapter.py": "typed records from a mapped file, nothing else is built",
    "datasets/published/coco.py": "types of those records",
    "datasets/published/visual_genome.py": "typed records from a mapped file, entry by entry",
    "pairs/manifest.py": "one typed record, of JSON that was read within the bounds",
    "images/triggers.py": "typed records, of a manifest that was read within the bounds",
    "pairs/folder.py": "typed lines, of JSON that was read within the bounds",
    "datasets/openmoji/scene_data.py": "what the package ships, pictures that it drew",
}
LOADERS = {
    "json": {"load", "loads", "JSONDecoder"},
    "yaml": {"load", "safe_load", "full_load", "unsafe_load", "load_all", "safe_load_all", "SafeLoader"},
    "csv": {"reader", "DictReader"},
    "tomllib": {"load", "loads"},
    "np": {"load", "loadtxt", "genfromtxt"},
    "numpy": {"load", "loadtxt", "genfromtxt"},
    "pickle": {"load", "loads", "Unpickler"},
}  # fmt: skip


def loaders_of(file: Path) -> Iterator[str]:
    """Every call of a parser in a file, however it is imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in LOADERS.get(node.value.id, ()):
                yield f"{node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name in LOADERS.get(node.module or "", ()):
                    yield f"{node.lineno}: {node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "msgspec" or (
                    alias.name in LOADERS and alias.asname not in (None, "np")
                ):
                    yield f"{node.lineno}: import {alias.name} as {alias.asname}"


def test_the_test_sees_parsers(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import json, msgspec\nfrom yaml import safe_load\njson.loads('1')\njson.dumps(1)\n"
    )
    assert [line.partition(":")[0] for line in loaders_of(file)] == ["1", "2", "3"]


def test_text_of_strangers_is_parsed_where_the_bounds_are() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in sorted(SOURCE.rglob("*.py"))
        if str(file.relative_to(SOURCE)) not in PARSERS
        for line in loaders_of(file)
    ]
    assert wrong == []
