"""A named pipe for every path that the command line takes: refused in one line, never waited for."""

from __future__ import annotations

import os
import threading
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.scan_results import write_scan_result

from mmpoison.cli.app import app

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

Cli = Callable[..., Any]

TEXT_PATHS = {"data", "model", "encoder", "recipe", "reference", "pretrained", "source"}
"""Parameters that take a name or a path."""

SETTINGS = "--model model --out out --set epochs=1"
POISON = "poison squares --goal sheep2aeroplane --samples 2 --out out"
REVIEW = "review scanned --labels l.csv --data squares"
EVALUATE = "evaluate --data squares --model model --goal sheep2aeroplane"
SCAN = "scan squares --encoder model --out out"
CONVERT = "data convert squares --to parquet --out out"

# an option that is given twice counts as it was given last
COMMANDS: dict[tuple[str, str], str] = {
    ("demo", "out"): "demo --out pipe",
    ("run", "recipe"): "run pipe.yaml --out out",
    ("run", "out"): "run recipe.yaml --out pipe",
    ("run", "data_root"): "run rsicd-ucm --data-root pipe --out out",
    ("run", "measured"): "run matrix --from pipe --out out",
    ("poison", "data"): POISON.replace("squares", "pipe"),
    ("poison", "out"): f"{POISON} --out pipe",
    ("poison", "encoder"): f"{POISON} --attack single-target-image --encoder ./pipe",
    ("poison", "from_manifest"): "poison squares --from-manifest pipe --out out",
    ("train", "data"): f"train --data pipe {SETTINGS}",
    ("train", "model"): f"train --data squares {SETTINGS} --model ./pipe",
    ("train", "out"): f"train --data squares {SETTINGS} --out pipe",
    ("scan", "source"): "scan pipe --out out --encoder model",
    ("scan", "out"): "scan squares --encoder model --out pipe",
    ("scan", "encoder"): "scan squares --out out --encoder ./pipe",
    ("scan", "labels"): "scan squares --encoder model --out out --labels pipe",
    ("scan", "kept"): "scan squares --encoder model --out out --kept pipe",
    ("review", "result"): "review pipe --labels l.csv --data squares",
    ("review", "labels"): f"{REVIEW} --labels pipe",
    ("review", "data"): f"{REVIEW} --data pipe",
    ("review", "encoder"): f"{REVIEW} --encoder ./pipe",
    ("check", "data"): "check model --data pipe --reference model",
    ("check", "model"): "check ./pipe --data squares --reference model",
    ("check", "reference"): "check model --data squares --reference ./pipe",
    ("check", "out"): "check model --data squares --reference model --out pipe",
    ("check", "data_root"): "check model --data squares --reference model --data-root pipe",
    ("sterilize", "data"): f"sterilize --data pipe {SETTINGS}",
    ("sterilize", "model"): f"sterilize --data squares {SETTINGS} --model ./pipe",
    ("sterilize", "out"): f"sterilize --data squares {SETTINGS} --out pipe",
    ("evaluate", "data"): f"{EVALUATE} --data pipe",
    ("evaluate", "model"): f"{EVALUATE} --model ./pipe",
    ("evaluate", "manifest"): "evaluate --data squares --model model --manifest pipe",
    ("evaluate", "reference"): f"{EVALUATE} --reference ./pipe",
    ("evaluate", "pretrained"): f"{EVALUATE} --pretrained ./pipe",
    ("evaluate", "out"): f"{EVALUATE} --out pipe",
    ("report", "runs"): "report pipe",
    ("report", "against"): "report run --against pipe",
    ("report", "markdown"): "report run --markdown pipe",
    ("report", "out"): "report run --claims --out pipe",
    ("report", "parquet"): "report run --parquet pipe",
    ("report", "html"): "report run --html pipe",
    ("search", "data"): "search --data pipe --models model",
    ("search", "data_root"): "search --data squares --models model --data-root pipe",
    ("search", "run"): "search --run pipe",
    ("search", "manifest"): "search --data squares --models model --manifest pipe",
    ("data build", "out"): "data build openmoji --out pipe",
    ("data split", "data"): "data split pipe --save s.json",
    ("data split", "labels"): "data split squares --labels pipe --out out",
    ("data split", "save"): "data split squares --save pipe",
    ("data split", "out"): "data split squares --out pipe",
    ("data split", "data_root"): "data split squares --data-root pipe --save s.json",
    ("data convert", "source"): CONVERT.replace("squares", "pipe"),
    ("data convert", "out"): f"{CONVERT} --out pipe",
    ("data convert", "labels"): f"{CONVERT} --labels pipe",
    ("data verify", "data"): "data verify pipe",
    ("data verify", "clean"): "data verify squares --clean pipe",
    ("data verify", "data_root"): "data verify squares --data-root pipe",
    ("data verify", "out"): "data verify squares --out pipe",
    ("data convert", "data_root"): f"{CONVERT} --data-root pipe",
    ("poison", "data_root"): f"{POISON} --data-root pipe",
    ("train", "data_root"): f"train --data squares {SETTINGS} --data-root pipe",
    ("review", "data_root"): f"{REVIEW} --data-root pipe",
    ("sterilize", "data_root"): f"sterilize --data squares {SETTINGS} --data-root pipe",
    ("sterilize", "reference"): f"sterilize --data squares {SETTINGS} --reference pipe",
    ("evaluate", "data_root"): f"{EVALUATE} --data-root pipe",
    ("scan", "data_root"): f"{SCAN} --data-root pipe",
    ("models show", "model"): "models show ./pipe",
    ("models fetch", "model"): "models fetch ./pipe",
    ("models export", "model"): "models export ./pipe --out out",
    ("models export", "out"): "models export model --out pipe",
}

FAILS_LATER = {"a manifest"}
"""Exit code 1: `data verify` lists the fault among others."""

INSIDE = {
    "a recipe that is extended": ("base.yaml", "run child.yaml --out out"),
    "a manifest": ("squares/manifest.json", "data verify squares"),
    "scores": ("scanned/scores.parquet", REVIEW),
    "what a scan said": ("scanned/scan.json", "review scanned --labels l.csv"),
    "metrics of a run": ("run/metrics.json", "report run"),
    "the recipe of a run": ("run/recipe.yaml", "report run --parquet x.parquet"),
    "a split": ("split.json", "data split squares --apply split.json"),
    "the list of a sweep": (
        "sweep/sweep.yaml",
        "run recipe.yaml --seeds 0-1 --workers 1 --out sweep",
    ),
}


def parameters() -> Iterator[tuple[str, str]]:
    """Every verb with every parameter that is, or may be, a path."""

    def walk(group: typer.Typer, name: str) -> Iterator[tuple[str, str]]:
        for command in group.registered_commands:
            assert command.callback is not None
            verb = f"{name} {command.name or command.callback.__name__}".strip()
            hints = typing.get_type_hints(command.callback, include_extras=True)
            for parameter, kind in hints.items():
                if "Path" in str(kind) or parameter in TEXT_PATHS:
                    yield verb, parameter
        for inner in group.registered_groups:
            assert inner.typer_instance is not None
            yield from walk(inner.typer_instance, f"{name} {inner.name}")

    return walk(app, "")


def test_every_path_of_the_command_line_is_tried() -> None:
    assert sorted(parameters()) == sorted(COMMANDS)


@pytest.fixture
def work(work: Path) -> Path:
    """The folder to work in, with a run, what a scan left, recipes and a named pipe too."""
    for name in ("pipe", "pipe.yaml"):
        os.mkfifo(work / name)
    for file, text in {
        "recipe.yaml": "name: x\ndata: {name: squares}\nmodel: {name: model}\n"
        "attack: {name: single-target-label, goal: sheep2aeroplane, samples: 2}\ntraining: {epochs: 1}\n",
        "base.yaml": "name: x\n",
        "child.yaml": "extends: base.yaml\n",
        "run/metrics.json": '{"goal": {}, "run": {"recipe": "x", "seed": 0}}',
        "run/recipe.yaml": "name: x\n",
        "sweep/sweep.yaml": "runs: {}\n",
    }.items():
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        (work / file).write_text(text)
    row = {"caption": "a aeroplane on a hill, picture 0 word 0", "score": 0.5, "drop": False}
    write_scan_result(work / "scanned", [{"pair": "aeroplane/00.png#0", **row}], data="squares")
    return work


def outcome_within(seconds: float, work: Callable[[], Any], pipe: Path) -> Any:
    """What a call gives; one that waits for the pipe is let go, and fails."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        with suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        with suppress(OSError):
            os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        thread.join(5)
        pytest.fail(f"waits for {pipe.name}")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def refused_a_pipe(cli: Cli, command: str, pipe: Path, *, later: bool = False) -> str:
    done = outcome_within(60, lambda: cli(*command.split()), pipe)
    assert pipe.is_fifo(), "it was replaced"
    assert done.code == (1 if later else 2), done
    if later:
        return str(done.out)
    lines = [line for line in done.err.splitlines() if "warning" not in line]
    assert len(lines) == 1, done.err
    return str(lines[0])


@pytest.mark.parametrize("place", COMMANDS, ids="-".join)
def test_a_pipe_for_a_path(cli: Cli, work: Path, place: tuple[str, str]) -> None:
    command = COMMANDS[place]
    name = "pipe.yaml" if "pipe.yaml" in command else "pipe"
    assert "pipe" in refused_a_pipe(cli, command, work / name)


@pytest.mark.parametrize("what", INSIDE)
def test_a_pipe_within_what_a_path_names(cli: Cli, work: Path, what: str) -> None:
    name, command = INSIDE[what]
    pipe = work / name
    pipe.unlink(missing_ok=True)
    pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(pipe)
    said = refused_a_pipe(cli, command, pipe, later=what in FAILS_LATER)
    assert pipe.name in said
