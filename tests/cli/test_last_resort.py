"""Whatever ends a command is one line and an exit code."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch

from mmpoison.base.files import DiskFull, atomic_file
from mmpoison.cli.last_resort import explain

Cli = Callable[..., Any]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    from mmpoison.datasets import catalogue

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(catalogue, "load_pairs", fail)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError("Unable to allocate 9 TiB"), 1, "out of memory: give a smaller batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "out of memory"),
        (RecursionError("maximum recursion depth exceeded"), 1, "nested too deeply"),
        (ModuleNotFoundError("No module named 'ray'", name="ray"), 1, "mmpoison[ray]'"),
        (ModuleNotFoundError("No module named 'msgspec'", name="msgspec"), 1, "msgspec is missing"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "Permission denied: /x/y"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 2, "Read-only file system: /x"),
        (OSError(errno.EFBIG, "File too large", "f"), 2, "f: a file would be larger than"),
        (KeyError("x"), 1, "this is a bug in mmpoison (KeyError: 'x'); please report it"),
        (AssertionError("a\nb\tc\x1b[31m"), 1, "(AssertionError: a b c"),
    ],
)
def test_one_line(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    fresh_cache: Path,
    square_folder: Path,
    error: Exception,
    code: int,
    says: str,
) -> None:
    failing(monkeypatch, error)
    result = cli("poison", square_folder, "--goal", "sheep2sofa", "--samples", "2", "--out", "o")
    assert result.code == code
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("mmpoison: ")
    assert says in result.err
    assert "\x1b" not in result.err


def test_the_stack_trace_of_a_bug_is_kept(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path, square_folder: Path
) -> None:
    failing(monkeypatch, KeyError("x"))
    arguments = ("poison", square_folder, "--goal", "sheep2sofa", "--samples", "2", "--out", "o")
    result = cli(*arguments)
    (file,) = (fresh_cache / "crashes").iterdir()
    assert str(file) in result.err
    assert "Traceback" in file.read_text()
    assert "sheep2sofa" in file.read_text()
    monkeypatch.setenv("MMPOISON_TRACEBACK", "1")
    shown = cli(*arguments)
    assert "Traceback" in shown.err
    assert "this is a bug in mmpoison" in shown.err
    assert len(list((fresh_cache / "crashes").iterdir())) == 1


def test_a_trace_that_cannot_be_kept_is_no_second_failure(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, square_folder: Path
) -> None:
    failing(monkeypatch, KeyError("x"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "file"))
    result = cli("poison", square_folder, "--goal", "a2b", "--samples", "2", "--out", "o")
    assert result.code == 1
    assert "MMPOISON_TRACEBACK=1 prints the stack trace" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        # as safetensors, NumPy and pyarrow raise them on a full tmpfs
        safetensors.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
        OSError("65536 requested and 8176 written"),
        OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    ],
)
def test_what_libraries_say_of_a_full_disk(tmp_path: Path, error: Exception) -> None:
    line, code = explain(error)
    assert code == 2
    assert "the disk is full" in line

    def write() -> None:
        with atomic_file(tmp_path / "x"):
            raise error

    with pytest.raises(DiskFull, match=r"x: the disk is full.*nothing was written"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_optional_packages_are_imported_in_one_way() -> None:
    """A new `except ImportError` would be a second way to say that an extra is missing."""
    source = Path(__file__).resolve().parents[2] / "src" / "mmpoison"
    found = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if re.search(r"except \(?[^:\n]*(ImportError|ModuleNotFoundError)", path.read_text())
    ]
    assert found == ["base/extras.py"]


def test_every_extra_is_declared() -> None:
    import tomllib

    from mmpoison.base.extras import EXTRAS

    root = Path(__file__).resolve().parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(EXTRAS.values()) <= set(extras)


def test_a_reader_that_goes_is_no_error() -> None:
    code = (
        "import sys; sys.argv = ['mmpoison', 'data', 'list']; from mmpoison.cli import main; main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode in (0, 1, 141)


def test_the_first_import_is_small() -> None:
    """What comes before signals are seen to takes no time in which they could come."""
    code = (
        "import sys; from mmpoison.cli import main; "
        "print(sorted(m for m in sys.modules if m.startswith('mmpoison')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip()
        == "['mmpoison', 'mmpoison._version', 'mmpoison.cli', 'mmpoison.cli.last_resort']"
    )
