"""Which code a result depends on: found from imports, without importing anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from mmpoison.base.code_version import CodeIndex, code_version

FILES = {
    "__init__.py": "from {top}.result import compute\n",
    "result.py": '"""Computes."""\nfrom __future__ import annotations\nfrom typing import TYPE_CHECKING\n'
    "import numpy\nfrom {top}.tools import helper\nfrom .near import close\n"
    "if TYPE_CHECKING:\n    from {top} import types_only\n\n"
    "def compute():\n    from {top} import later\n    import sklearn.cluster\n    return helper(), later.x\n",
    "tools/__init__.py": "from {top}.tools.one import helper\nfrom {top}.tools.two import other\n",
    "tools/one.py": "from {top}.deep import value\n\ndef helper():\n    return value\n",
    "tools/two.py": "def other():\n    return 2\n",
    "near.py": "close = 1\n",
    "deep.py": "import PIL.Image\nvalue = open('words.json')\n",
    "words.json": '["one"]',
    "other.json": '["two"]',
    "later.py": "x = 1\n",
    "types_only.py": "class Shape: ...\n",
    "unrelated.py": "import yaml\ny = 1\n",
}

Edit = Callable[[str, str], None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package on the path of Python."""
    folder = tmp_path / "path" / "housetest"
    for name, text in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("{top}", folder.name))
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def version(root: str = "housetest.result", folder: Path | None = None) -> str:
    with CodeIndex(folder) as index:
        return index.version([root])


def test_the_modules_are_those_that_are_imported_from_there_on(package: Path) -> None:
    reach = CodeIndex().reach(["housetest.result"])
    assert [name.removeprefix("housetest.") for name in reach.modules] == [
        *("deep", "deep:words.json", "later", "near", "result", "tools.one")
    ]
    assert reach.packages == {"numpy", "sklearn", "PIL"}
    assert "housetest" not in sys.modules


@pytest.mark.parametrize(
    "name", ["result.py", "tools/one.py", "deep.py", "later.py", "near.py", "words.json"]
)
def test_a_change_in_an_imported_module_changes_the_version(package: Path, name: str) -> None:
    before = version()
    with (package / name).open("a") as file:
        file.write("more = 2\n")
    assert version() != before


@pytest.mark.parametrize(
    "name", ["unrelated.py", "tools/two.py", "types_only.py", "__init__.py", "other.json"]
)
def test_a_change_elsewhere_does_not(package: Path, name: str) -> None:
    before = version()
    with (package / name).open("a") as file:
        file.write("more = 2\n")
    assert version() == before


def test_nor_does_a_change_of_words_alone(package: Path) -> None:
    before = version()
    text = (package / "result.py").read_text()
    (package / "result.py").write_text(
        "# why\n" + text.replace("Computes.", "Computes a lot.") + "\n\n"
    )
    assert version() == before


def test_another_version_of_a_library_changes_it(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = version()
    known = metadata.version

    def bumped(name: str) -> str:
        return known(name) + (".1" if name.lower() == changed else "")

    monkeypatch.setattr(metadata, "version", bumped)
    for changed in ("numpy", "scikit-learn", "pillow"):
        assert version() != before, changed
    changed = "pyyaml"  # only the unrelated module imports it
    assert version() == before


def test_what_is_cached_on_disk_says_the_same_and_is_not_stale(
    package: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "code"
    before = version()
    assert version(folder=cache) == before == version(folder=cache)
    with (package / "deep.py").open("a") as file:
        file.write("more = 2\n")
    assert version(folder=cache) == version() != before
    for broken in (b"[", b"[]", b"\xff"):
        for file_ in cache.iterdir():
            file_.write_bytes(broken)
        assert version(folder=cache) == version()


def test_a_package_that_only_passes_a_name_on_leads_to_where_it_is_defined(package: Path) -> None:
    (package / "facade.py").write_text("from housetest.tools import other\n")
    assert set(CodeIndex().reach(["housetest.facade"]).modules) == {
        *("housetest.facade", "housetest.tools.two")
    }


def test_functions_and_classes_stand_for_their_modules() -> None:
    from mmpoison.base.seeding import generator

    assert code_version(generator) == code_version("mmpoison.base.seeding")
    assert code_version(generator) != code_version("mmpoison.base.files")
    assert code_version("mmpoison.base.files", alone=("mmpoison.base.seeding",)) != code_version(
        "mmpoison.base.files"
    )


# -- of mmpoison itself --------------------------------------------------------------------------------------------


def test_what_0_1_0_forgot_is_found() -> None:
    index = CodeIndex()
    groups = index.reach(["mmpoison.defenses.filters.suspicious_groups._defense"])
    assert any(name.startswith("mmpoison.metrics.") for name in groups.modules)
    assert {"sklearn", "scipy", "numpy", "torch", "open_clip"} <= groups.packages
    reached = index.reach(["mmpoison.runs.training_probe"]).modules
    assert {"mmpoison.runs.training_probe", "mmpoison.defenses.repairs.repair_watch"} <= set(
        reached
    )
    training = index.reach(["mmpoison.training.loop"]).modules
    assert not any(
        name.startswith(("mmpoison.defenses", "mmpoison.reporting")) for name in training
    )


def test_it_is_fast_and_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from mmpoison.base.code_version import code_version\n"
        "begun = time.process_time()\n"
        "code_version('mmpoison.runs.run_stages', folder=Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules\n"
        "print(time.process_time() - begun)\n"
    )
    taken = [
        float(subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], text=True))
        for _ in range(2)
    ]
    assert taken[1] < 0.3
