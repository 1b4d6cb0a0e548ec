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

FEW = {"unlabelled": 100, "per_class": 24, "held_out": 100, "samples": 12}


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
    names, brought = {"mmpoison", "numpy", "pandas"}, {"mmpoison[figures]": "matplotlib"}
    extra = EXTRAS["notebooks"]
    names |= {brought.get(each, each.partition(">")[0]) for each in extra}
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        assert "pip install 'mmpoison[notebooks]'" in notebook.cells[0].source, file
        code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        assert set(re.findall(r"(?m)^(?:import|from) (\w+)", code)) <= names, file


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in an empty folder and without the names of the one before; one kernel, whose start takes seconds."""
    # settings of the user's IPython and Jupyter play no part
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert "MMPOISON_CACHE" in os.environ
    whole, last = nbformat.v4.new_notebook(), []
    for file in NOTEBOOKS:
        folder = tmp_path / file.stem
        folder.mkdir()
        notebook = nbformat.read(file, as_version=4)
        # every call with fewer steps, and the same few scenes: the pages have the results
        for cell in notebook.cells:
            source = cell.source.replace('"epochs": 1,', '"epochs": 1, "max_steps": 1,')
            for name, value in FEW.items():
                source = re.sub(rf"\b{name}=\d+", f"{name}={value}", source)
            cell.source = source
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        whole.cells += [nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}"), *cells]
        last.append(cells[-1])
    NotebookClient(whole, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    for file, cell in zip(NOTEBOOKS, last, strict=True):
        assert any("image/png" in output.get("data", {}) for output in cell.outputs), file
