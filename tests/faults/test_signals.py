"""Ctrl-C and SIGTERM: one line, the shell's exit code, nothing half-written, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import POINTS, VERBS

NAMES = {signal.SIGINT: "stopped", signal.SIGTERM: "terminated"}

# all verbs have one handler: `make test` sends each one of the two
EACH = [
    (verb, number)
    for place, verb in enumerate(VERBS)
    for which, number in enumerate(NAMES)
    if POINTS or place % 2 == which
]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "number"), EACH)
def test_a_signal(
    bench: Any,
    same_again: Callable[[str, Path], None],
    tmp_path: Path,
    verb: str,
    number: signal.Signals,
) -> None:
    _, seconds = bench.undisturbed(verb)
    for share in bench.shares(f"{verb}{number}", 1 if verb in ("run", "sweep") else 2):
        place = tmp_path / f"{share}"
        place.mkdir()
        arguments = bench.arguments(verb)
        result = bench.nursery(arguments, place, signal=number, after=min(share, 0.7) * seconds)
        assert "Traceback" not in result.err, result
        assert [str(path) for path in place.rglob("*.mmpoison-*")] == []
        if result.code == -number:
            # before the first line of ours
            assert (result.out, result.err) == ("", "")
            assert list(place.iterdir()) == []
        elif result.code:
            assert result.code == 128 + number
            assert (
                result.err == f"mmpoison: {NAMES[number]}; run the same command again to resume\n"
            )
        same_again(verb, place)


@pytest.mark.parametrize("number", list(NAMES))
def test_nothing_is_raised_into_an_import(tmp_path: Path, number: signal.Signals) -> None:
    """C code that imports a module of Python aborts on an exception."""
    (tmp_path / "imported_by_c.py").write_text(
        "import os, signal\n"
        "try:\n"
        f"    signal.raise_signal({int(number)})\n"
        "except BaseException:\n"
        "    os.abort()\n"
    )
    code = (
        "from mmpoison.cli.last_resort import guarded; guarded(lambda: __import__('imported_by_c'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 128 + number
    assert done.stderr == f"mmpoison: {NAMES[number]}; run the same command again to resume\n"


@pytest.mark.parametrize("number", list(NAMES))
def test_in_the_first_half_second(tmp_path: Path, number: signal.Signals) -> None:
    """From the moment that Python runs code of ours: before, the interpreter alone decides what it says."""
    code = (
        "import sys, time\n"
        "sys.argv = ['mmpoison', 'models', 'show', 'openmoji-mini']\n"
        "from mmpoison.cli import main\n"
        "print('begun', flush=True)\n"
        "main()\n"
    )
    stopped = 0
    for wait in (0.02, 0.05, 0.1, 0.2, 0.3, 0.45):
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(wait)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            continue  # it was done
        stopped += 1
        if process.returncode == -number and wait < 0.2:
            assert err == ""  # a busy machine had not come to our handler yet
            continue
        assert process.returncode == 128 + number, err
        assert err == f"mmpoison: {NAMES[number]}; run the same command again to resume\n"
    assert stopped >= 2
