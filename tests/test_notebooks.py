"""The notebooks of the documentation run from their first cell to their last, and store small outputs."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]


def test_there_is_one_for_each_user() -> None:
    names = {file.stem for file in NOTEBOOKS}
    assert names >= {"from-load-to-figure", "researcher", "engineer", "owner"}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_stored_and_small(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    assert file.stat().st_size < 200_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code), "execute it and save it with its outputs"
    text = file.read_text(encoding="utf-8")
    assert "site-packages" not in text
    assert "/tmp/" not in text
    tables = [o for cell in code for o in cell.outputs if "dataframe" in str(o.get("data", {}))]
    assert tables or file.stem == "from-load-to-figure", "no table as a DataFrame"


def test_one_extra_installs_what_they_import() -> None:
    names, brought = {"mmpoison", "numpy"}, {"mmpoison[figures]": "matplotlib"}
    extra = EXTRAS["notebooks"]
    names |= {brought.get(each, each.partition(">")[0]) for each in extra}
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        assert "pip install 'mmpoison[notebooks]'" in notebook.cells[0].source, file
        code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        assert set(re.findall(r"(?m)^(?:import|from) (\w+)", code)) <= names, file


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # settings of the user's IPython and Jupyter play no part
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert "MMPOISON_CACHE" in os.environ
    notebook = nbformat.read(file, as_version=4)
    # every call with fewer steps and scenes: the pages have the results
    for cell in notebook.cells:
        source = cell.source.replace('"epochs": 1,', '"epochs": 1, "max_steps": 4,')
        cell.source = re.sub(r"(unlabelled|held_out)=\d{3}\b", r"\1=100", source)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    assert any("image/png" in output.get("data", {}) for output in last.outputs), "no figure"
