"""The folder that `--data-root` is to name, against an independent slow version."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import refusal

from mmpoison.pairs.builder import ImageEntry, PairRows

PARTS = st.lists(st.sampled_from(["a", "ab", "b", "..", "x.jpg"]), min_size=1, max_size=4)


def line_of(paths: list[str]) -> str:
    """The refusal of a table whose images all lie elsewhere."""
    entries = [ImageEntry(path, ["x"], "line") for path in paths]
    return refusal(PairRows(Path(), entries, "a.csv", own_paths=True).table)


@given(st.lists(PARTS, min_size=1, max_size=6))
def test_the_common_folder(parts: list[list[str]]) -> None:
    paths = ["/nowhere/" + "/".join(names) for names in parts]
    absolute = [PurePosixPath(path) for path in paths if ".." not in path.split("/")]
    line = line_of([*paths, "../x.jpg"])
    if not absolute:
        assert "contains no image" in line
        return
    common = set.intersection(*(set(path.parents) for path in absolute))
    best = max(common, key=lambda folder: len(folder.parts))
    assert f"all are in {best}, which is not on this machine" in line


@pytest.mark.parametrize(
    ("name", "shown"), [("photos", ""), ("my photos", "'"), ("x\x1b[31m", "'")]
)
def test_the_line_is_one_that_a_shell_takes(tmp_path: Path, name: str, shown: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    line = line_of([f"{folder}/1.jpg"])
    assert line.isprintable()
    plain = f"{folder}".replace("\x1b", "\\x1b")
    assert line.endswith(f"give --data-root {shown}{plain}{shown}")
