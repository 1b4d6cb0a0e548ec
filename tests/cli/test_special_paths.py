"""A named pipe for every path that the command line takes: refused in one line, never waited for."""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_help import PATHS, named
from tests.datasets.test_special_files import within_seconds
from tests.scan_results import write_scan_result
from typer.models import ArgumentInfo

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

Cli = Callable[..., Any]

MODELS = {"model", "encoder", "reference", "pretrained"}
TEXT_PATHS = MODELS | {"data", "recipe", "source"}
"""Parameters that take a name or a path."""

REVIEW = "review scanned --labels l.csv --data squares"
POISON = "poison squares --out out"

# a command that has what each verb needs; an option that is given twice counts as it was given last
BASE: dict[str, str] = {
    "demo": "demo",
    "run": "run recipe.yaml --out out",
    "poison": f"{POISON} --goal sheep2aeroplane --samples 2",
    "train": "train --data squares --model model --out out --set epochs=1",
    "scan": "scan squares --encoder model --out out",
    "review": REVIEW,
    "check": "check model --data squares --reference model",
    "sterilize": "sterilize --data squares --model model --out out --set epochs=1",
    "evaluate": "evaluate --data squares --model model --goal sheep2aeroplane",
    "report": "report run",
    "search": "search --data squares --models model",
    "data build": "data build openmoji",
    "data split": "data split squares",
    "data verify": "data verify squares",
    "models show": "models show model",
    "models fetch": "models fetch model",
    "models export": "models export model --out out",
}
OTHERWISE: dict[tuple[str, str], str] = {
    ("run", "recipe"): "run pipe.yaml --out out",
    ("run", "data_root"): "run flickr8k --data-root pipe --out out",
    ("run", "experiment"): "run matrix --with from=pipe --out out",
    ("poison", "data"): BASE["poison"].replace("squares", "pipe"),
    ("poison", "encoder"): f"{BASE['poison']} --attack single-target-image --encoder ./pipe",
    ("poison", "from_manifest"): f"{POISON} --from-manifest pipe",
    ("check", "kept"): f"{BASE['check']} --trace trace --kept pipe",
    ("report", "out"): "report run --view table-3 --out pipe",
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
    "what an experiment is of": (
        "sweep/experiment.yaml",
        "run recipe.yaml --seeds 0-1 --workers 1 --out sweep",
    ),
}


def commands() -> Iterator[tuple[tuple[str, str], str]]:
    """A command for every parameter of every verb that is, or may be, a path."""
    for path in PATHS:
        verb = " ".join(path)
        for parameter, one in inspect.signature(named(path).callback).parameters.items():
            kind = one.annotation
            if "Path" not in str(kind) and parameter not in TEXT_PATHS:
                continue
            pipe = "./pipe" if parameter in MODELS else "pipe"
            words = BASE[verb].split()
            if isinstance(typing.get_args(kind)[1], ArgumentInfo):
                words[len(path)] = pipe
            else:
                words += [f"--{parameter.replace('_', '-')}", pipe]
            place = (verb, parameter)
            yield place, OTHERWISE.get(place, " ".join(words))


COMMANDS = dict(commands())


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
        "sweep/experiment.yaml": "sweep: {}\n",
    }.items():
        (work / file).parent.mkdir(parents=True, exist_ok=True)
        (work / file).write_text(text)
    row = {"caption": "a aeroplane on a hill, picture 0 word 0", "score": 0.5, "drop": False}
    write_scan_result(work / "scanned", [{"pair": "aeroplane/00.png#0", **row}], data="squares")
    return work


def refused_a_pipe(cli: Cli, command: str, pipe: Path, *, later: bool = False) -> str:
    done = within_seconds(lambda: cli(*command.split()), pipe, 60)
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
