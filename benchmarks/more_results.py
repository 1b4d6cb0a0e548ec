"""Results beyond the paper's tables: which commands make them, and their pages for the documentation.

Used by `reproduce.py`, which runs the commands and writes the pages.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpoison.base.untrusted import read_json
from mmpoison.reporting.runs import expand
from mmpoison.reporting.seeds import seed_tables
from mmpoison.reporting.table import Column, Table, markdown

GOALS = "airplane2beach,beach2airplane,tenniscourt2forest,harbor2golfcourse,forest2runway,river2storagetanks"
LEAN = ("--set", "filter=null", "--set", "sterilize=null")
ATTACK_1 = ("--attack", "single-target-image")
GROUPS = ("--set", "filter={method: suspicious-groups, encoder: pretrained, clean_loss: 0.02}")
SIDE_BY_SIDE = ("--no-models", "--workers", "2")

# those of the tables, so that trainings are shared
FIVE = ("--seeds", "5-9", *SIDE_BY_SIDE)
TEN = ("--seeds", "5-14", *SIDE_BY_SIDE)

# one seed: ten epochs take an hour a model on one core
WHOLE = ("run", "rsicd-ucm-full", "--seeds", "5", "--no-models")

# 2,100 pairs of the attacked kind, five captions for each of 20 images of 21 classes; or as many of RSICD; 68 steps
REPAIR = (
    *("run", "rsicd-ucm", *TEN, "--set", "filter=null"),
    *("--set", "data.options.held_out=20", "--set", "sterilize.pairs=2100"),
    *("--set", "sterilize.training.epochs=4", "--set", "sterilize.training.batch_size=128"),
)

EQUAL = "where an equal caption"
"""In the title of the second table of utility, which is of one setting."""

SUMMARIES = {"attacks": "attack", "kinds": "kind", "nulls": "null"}
"""Where a benchmark's JSON has its summaries, and what they are of."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class More:
    """One page.

    Attributes:
        name: Of the page and of the folder of its runs.
        title: Its heading.
        runs: `mmpoison` commands, without `--out`, by the name of their folder.
        benchmarks: Scripts next to this one with their arguments, without `--json`, by the name of their file.
        photos: Needs the satellite photos.
    """

    name: str
    title: str
    runs: Mapping[str, Sequence[str]] | None = None
    benchmarks: Mapping[str, Sequence[str]] | None = None
    photos: bool = False


def _both_attacks(recipe: str, *more: str) -> dict[str, Sequence[str]]:
    command = ("run", recipe, *FIVE, *more)
    return {"II": command, "I": (*command, *ATTACK_1)}


def _suspected(data: str, encoder: str) -> dict[str, Sequence[str]]:
    return {"seeds-5-9": ("suspected_goals.py", data, "--encoder", encoder)}


def _model_scan(recipe: str) -> dict[str, Sequence[str]]:
    return {"seeds-5-9": ("model_scan.py", recipe, "--models", "MODELS", "--seeds", "5-9")}


MORE = (
    More(
        "studies-openmoji",
        "Queries, neighbours and classes: OpenMoji scenes",
        runs=_both_attacks("openmoji", "--study", "all", *LEAN),
    ),
    More(
        "defences-openmoji",
        "Filter and repair: OpenMoji scenes",
        runs=_both_attacks("openmoji"),
    ),
    More(
        "suspected-goals-openmoji",
        "Suspected goals: OpenMoji scenes",
        benchmarks=_suspected("openmoji", "openmoji-mini"),
    ),
    More(
        "studies-rsicd-ucm",
        "Queries, neighbours and classes: satellite photos",
        runs=_both_attacks("rsicd-ucm", "--study", "all", *LEAN),
        photos=True,
    ),
    More(
        "goals-and-modes-rsicd-ucm",
        "Six goals, added and replaced: satellite photos",
        runs={
            "goals": (
                *("sweep", "rsicd-ucm", "--seeds", "5-7", "--goals", GOALS),
                *("--set", "attack.mode=add,replace"),
            )
        },
        photos=True,
    ),
    More(
        "groups-rsicd-ucm",
        "The filter suspicious-groups: satellite photos",
        runs={
            **_both_attacks("rsicd-ucm", *GROUPS, "--set", "sterilize=null"),
            "III": (
                *("run", "rsicd-ucm", *FIVE, *GROUPS, "--set", "sterilize=null"),
                *("--goal", "airplane2beach", "--goal", "tenniscourt2forest"),
            ),
        },
        photos=True,
    ),
    More(
        "both-encoders-rsicd-ucm",
        "Both encoders trained: satellite photos",
        runs={"one-epoch": WHOLE, "ten-epochs": (*WHOLE, "--set", "training.epochs=10")},
        photos=True,
    ),
    More(
        "repair-own-kind-rsicd-ucm",
        "Repair with pairs of the victim's own kind, or of another: satellite photos",
        runs={"own": (*REPAIR, "--set", "sterilize.labelled=true"), "other": REPAIR},
        photos=True,
    ),
    More(
        "judge-rsicd-ucm",
        "The filter judged by the model itself, or by another model: satellite photos",
        runs={
            name: ("run", recipe, *TEN, "--set", "sterilize=null")
            for name, recipe in (("own", "rsicd-ucm"), ("independent", "rsicd-ucm-judge"))
        },
        photos=True,
    ),
    More(
        "suspected-goals-rsicd-ucm",
        "Suspected goals: satellite photos",
        benchmarks=_suspected("rsicd-ucm", "efficientnet-minilm"),
        photos=True,
    ),
    More(
        "false-alarms",
        "False alarms of suspicious-groups on clean sets",
        benchmarks={
            "synthetic": ("false_alarms.py",),
            "real": ("false_alarms.py", "--kind", "real"),
        },
        photos=True,
    ),
    More(
        "model-scan-rsicd-ucm",
        "Is this model poisoned: satellite photos",
        benchmarks=_model_scan("rsicd-ucm"),
        photos=True,
    ),
    More(
        "model-scan-openmoji",
        "Is this model poisoned: OpenMoji scenes",
        benchmarks=_model_scan("openmoji-heads"),
    ),
)


def commands(more: More, runs: Path, data: Path | None) -> list[list[str]]:
    """Return what makes the results of a page.

    Args:
        more: The page.
        runs: Its results go into a folder of its name here.
        data: The folder that holds the photos.
    """
    own = runs / more.name
    made = []
    for name, arguments in (more.runs or {}).items():
        root = ["--data-root", str(data)] if more.photos else []
        made.append(["-m", "mmpoison", *arguments, "--out", str(own / name), *root])
    for name, (script, *arguments) in (more.benchmarks or {}).items():
        said = [str(runs / "models") if each == "MODELS" else each for each in arguments]
        root = ["--root", str(data)] if more.photos else []
        made.append([str(HERE / script), *said, "--json", str(own / f"{name}.json"), *root])
    return made


def is_complete(more: More, runs: Path) -> bool:
    """Whether there is something of every command."""
    own = runs / more.name
    return all(any((own / name).rglob("metrics.json")) for name in more.runs or {}) and all(
        (own / f"{name}.json").is_file() for name in more.benchmarks or {}
    )


def page(more: More, runs: Path, took: Mapping[str, float]) -> str:
    """Write the page as Markdown.

    Args:
        more: The page; it is complete.
        runs: Where its results are.
        took: `minutes` and `processor_minutes` of its commands.
    """
    own = runs / more.name
    said = [
        shlex.join(["mmpoison", *c[2:]] if c[0] == "-m" else ["python", f"benchmarks/{Path(c[0]).name}", *c[1:]])
        for c in commands(more, Path("runs"), Path("photos"))
    ]  # fmt: skip
    text = [f"# {more.title}", "", "```sh", *said, "```", ""]
    if took:
        text += [f"{took['minutes']:.1f} minutes ({took['processor_minutes']:.1f} of processor).\n"]
    if more.runs:
        text.append(markdown(short_tables([own / name for name in more.runs])))
    tables = [_summaries(name, read_json(own / f"{name}.json")) for name in more.benchmarks or {}]
    if tables:
        text.append(markdown(tables))
    return "\n".join(text)


def short_tables(folders: Sequence[Path]) -> list[Table]:
    """Return the tables of some runs; of several settings those alone that have them side by side, and the studies."""
    tables = seed_tables(expand(folders))
    if not any(table.of_all for table in tables):
        return tables
    short, setting = [], ""
    for table in tables:
        if table.of_models:
            setting = table.title.partition(", seeds ")[0]
        elif table.of_all:
            short.append(table)
        elif not (table.of_drift or EQUAL in table.title):
            short.append(replace(table, title=f"{setting}; {table.title}"))
    return short


def _summaries(title: str, found: Mapping[str, Any]) -> Table:
    """Make a table of the summaries of a benchmark: one a line, the rows of single goals left out."""
    kind, key = next((kind, key) for key, kind in SUMMARIES.items() if key in found)
    groups = found[key]
    lines = [
        {kind: name, **{k: v for k, v in group.items() if k != "rows"}}
        for name, group in groups.items()
    ]
    columns = tuple(Column(name.replace("_", " "), 4) for name in lines[0])
    return Table(title, columns, tuple(tuple(line.values()) for line in lines))
