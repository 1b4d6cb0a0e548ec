"""The folder that `--data-root` is to name, against an independent slow version."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpoison.pairs.builder import OutsidePaths

PARTS = st.lists(st.sampled_from(["a", "ab", "b", "..", "x.jpg"]), min_size=1, max_size=4)


def slow_common(paths: list[str]) -> str | None:
    """The deepest folder that is an ancestor of every absolute path."""
    absolute = [path for path in paths if path.startswith("/") and ".." not in path.split("/")]
    if not absolute:
        return None
    ancestors = [set(PurePosixPath(path).parents) for path in absolute]
    best = max(set.intersection(*ancestors), key=lambda folder: len(folder.parts))
    return None if str(best) == "/" else str(best)


@given(st.lists(st.tuples(st.sampled_from(["/", "/", "/", ""]), PARTS), min_size=1, max_size=6))
def test_the_common_folder(parts: list[tuple[str, list[str]]]) -> None:
    paths = [start + "/".join(names) for start, names in parts]
    outside = OutsidePaths()
    for path in paths:
        outside.add(path)
    assert outside.folder == slow_common(paths)


@pytest.mark.parametrize(
    ("name", "shown"), [("photos", ""), ("my photos", "'"), ("x\x1b[31m", "'")]
)
def test_the_line_is_one_that_a_shell_takes(tmp_path: Path, name: str, shown: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    outside = OutsidePaths()
    outside.add(f"{folder}/1.jpg")
    line = outside.refusal("a.csv", Path())
    assert line.isprintable()
    plain = f"{folder}".replace("\x1b", "\\x1b")
    assert line.endswith(f"give --data-root {shown}{plain}{shown}")
