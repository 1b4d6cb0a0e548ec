"""The verb `search`: what is refused before and while a page is there, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def refused(outcome: Any) -> str:
    """The one line of a refusal."""
    assert outcome.code == 2, outcome
    assert len(outcome.err.splitlines()) == 1
    return str(outcome.err)


def test_what_is_refused_before_a_page_is_there(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    data, model = ["--data", square_folder], ["--models", checkpoint]
    for arguments, said in (
        ([], "give --models and --data"),
        (data, "give --models and --data"),
        (model, "give --models and --data"),
        ([*data, "--models", tmp_path / "none"], "none: no such checkpoint"),
        ([*model, "--data", tmp_path / "none"], "none: no such folder"),
        ([*model, *data, "--manifest", tmp_path / "none.json"], "none.json: no such file"),
        ([*model, checkpoint, *data], "two models have the name 'tiny'"),
        ([*model, "a=x", "b=x", "c=x", "d=x", *data], "at most 4"),
        (["--run", tmp_path], "no run folder"),
        (["--demo", "--manifest", "m.json"], "--manifest needs --data"),
    ):
        assert said in refused(cli("search", *arguments))


def test_a_demo_that_never_was(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(cli("search", "--demo"))
    assert "holds no demo run" in said
    assert "mmpoison demo" in said


def test_a_busy_port(cli: Cli, square_folder: Path, checkpoint: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(
            cli("search", "--models", checkpoint, "--data", square_folder, "--port", port)
        )
    assert f"127.0.0.1 port {port} is in use" in said


@pytest.mark.parametrize("broken", ["model", "data"])
def test_what_cannot_be_loaded_ends_the_page(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path, broken: str
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "captions.jsonl").write_text("{")
    model, data = (folder, square_folder) if broken == "model" else (checkpoint, folder)
    said = refused(cli("search", "--models", model, "--data", data, "--port", "0"))
    assert "broken" in said


def test_it_answers_and_ctrl_c_ends_it(square_folder: Path, checkpoint: Path) -> None:
    command = [sys.executable, "-m", "mmpoison", "search", "--models", f"one={checkpoint}"]
    process = subprocess.Popen(
        [*command, f"two={checkpoint}", "--data", str(square_folder), "--no-open", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        # the page is there at once, whatever is still loading
        with urllib.request.urlopen(address, timeout=30) as page:
            assert "mmpoison search" in page.read().decode()
        with urllib.request.urlopen(f"{address}api/state", timeout=30) as answer:
            state = json.loads(answer.read())
        assert [model["name"] for model in state["models"]] == ["one", "two"]
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert err == ""
    assert out.splitlines()[-1].startswith("stopped after")
