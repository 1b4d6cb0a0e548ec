"""Lists the results beyond the paper's tables: their commands, and their pages in the documentation.

Used by `reproduce.py`, which runs the commands and writes the pages.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import page_blocks  # noqa: F401 - says where the benchmarks are
from rows import summary_table

from mmpoison.base.untrusted import read_json
from mmpoison.reporting.results import expand
from mmpoison.reporting.seeds import seed_tables
from mmpoison.reporting.table import Table, markdown

# those of the tables, so that trained models are shared
FIVE = "--seeds 5-9 --no-models --workers 2"
TEN = "--seeds 5-14 --no-models --workers 2"

LEAN = "--set filter=null --set sterilize=null"
GROUPS = "--set 'filter={method: suspicious-groups, encoder: pretrained, clean_loss: 0.02}' --set sterilize=null"
GOALS = "horse2boat,skateboard2motorcycle,boat2motorcycle,baseball2ski,car2surf,basketball2horse"
"""The paper's own goal on these data, and the first five that a matrix draws to measure on."""

# one seed: ten epochs take one hour per model on one core
WHOLE = "run flickr8k-full --seeds 5 --no-models"

ALIGN = (
    "{epochs: 8, batch_size: 256, learning_rate: 1.0e-3, min_learning_rate: 1.0e-5, warmup_epochs: 0.2, "
    "warmup_learning_rate: 1.0e-5, schedule: step, trainable: heads}"
)
JUDGE = f"--set 'filter={{encoder: efficientnet-lite2-minilm, clean_loss: 0.02, align: {ALIGN}}}'"
"""Another image tower; it and the model are aligned on a half of the clean photographs each."""

PHOTOS = "everyday photographs"
EQUAL = "where an equal caption"
"""In the title of the second table of utility, which is of one setting."""

HERE = Path(__file__).parents[2] / "benchmarks"


@dataclass(frozen=True)
class More:
    """One page.

    Attributes:
        name: Name of the page and of the folder with its results.
        title: Its heading.
        commands: `mmpoison` commands without `--out`, by the name of their folder; or scripts next to this one, by the
            name of the file that they write (left out of the command).
    """

    name: str
    title: str
    commands: Mapping[str, str]

    @property
    def photos(self) -> bool:
        """Whether it needs the photographs."""
        return self.name.endswith(("flickr8k", SATELLITE)) or self.name == "false-alarms"

    @property
    def has_runs(self) -> bool:
        """Whether its results are runs."""
        return not any(".py" in command for command in self.commands.values())


def _both_attacks(recipe: str, more: str) -> dict[str, str]:
    command = f"run {recipe} {FIVE} {more}"
    return {"II": command, "I": f"{command} --attack single-target-image"}


SETS = {"openmoji": "OpenMoji scenes", "flickr8k": PHOTOS}
SATELLITE = "rsicd"
"""A second check of the scan."""

ENCODERS = {
    "openmoji": "openmoji-mini",
    "flickr8k": "efficientnet-minilm",
    SATELLITE: "efficientnet-minilm",
}
SCANNED = {"openmoji": "openmoji-heads", "flickr8k": "flickr8k"}

MORE = (
    *(
        More(
            f"studies-{data}",
            f"Queries, neighbours and classes: {named}",
            _both_attacks(data, f"--set study=all {LEAN}"),
        )
        for data, named in SETS.items()
    ),
    More("defences-openmoji", "Filter and repair: OpenMoji scenes", _both_attacks("openmoji", "")),
    More(
        "goals-and-modes-flickr8k",
        f"Six goals, added and replaced: {PHOTOS}",
        {"goals": f"run flickr8k --seeds 5-7 --goals {GOALS} --set attack.mode=add,replace"},
    ),
    More(
        "groups-flickr8k",
        f"The filter suspicious-groups: {PHOTOS}",
        _both_attacks("flickr8k", GROUPS)
        | {"III": f"run flickr8k {FIVE} {GROUPS} --goals horse2boat+motorcycle2ski"},
    ),
    More(
        "both-encoders-flickr8k",
        f"Both encoders trained: {PHOTOS}",
        {"one-epoch": WHOLE, "ten-epochs": f"{WHOLE} --set training.epochs=10"},
    ),
    More(
        "judge-flickr8k",
        f"The filter judged by the model itself, or by another model: {PHOTOS}",
        {
            "own": f"run flickr8k {TEN} --set sterilize=null",
            "independent": f"run flickr8k {TEN} {JUDGE} --set sterilize=null",
        },
    ),
    *(
        More(
            f"suspected-goals-{data}",
            f"Suspected goals: {SETS.get(data, 'satellite photos')}",
            {"seeds-5-7": f"suspected_goals.py {data} --encoder {encoder}"},
        )
        for data, encoder in ENCODERS.items()
    ),
    More(
        "false-alarms",
        "False alarms of suspicious-groups on clean sets",
        {"synthetic": "false_alarms.py", "real": "false_alarms.py --kind real"},
    ),
    *(
        More(
            f"model-scan-{data}",
            f"Is this model poisoned: {SETS[data]}",
            {"seeds-5-9": f"model_scan.py {recipe} MODELS"},
        )
        for data, recipe in SCANNED.items()
    ),
)


def commands(more: More, runs: Path, data: Path | None) -> list[list[str]]:
    """Return the Python commands that make the results of a page.

    Args:
        more: The page.
        runs: Folder that gets a subfolder with its name and results.
        data: The folder that holds the photos.
    """
    made = []
    for name, command in more.commands.items():
        out = str(runs / more.name / name)
        said = shlex.split(command.replace("MODELS", str(runs / "models")))
        if more.has_runs:
            made.append(["-m", "mmpoison", *said, "--out", out])
        else:
            made.append([str(HERE / said[0]), *said[1:], f"{out}.json"])
        if more.photos and data is not None:
            place = data / SATELLITE if more.name.endswith(SATELLITE) else data
            made[-1] += ["--data-root" if more.has_runs else "--root", str(place)]
    return made


def is_complete(more: More, runs: Path) -> bool:
    """Check whether every command has results."""
    own = runs / more.name
    return all(
        (own / f"{name}.json").is_file() or any((own / name).rglob("metrics.json"))
        for name in more.commands
    )


def page(more: More, runs: Path, took: Mapping[str, float]) -> str:
    """Write the page as Markdown.

    Args:
        more: The page; all its results exist.
        runs: Folder of its results.
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
    if more.has_runs:
        tables = short_tables([own / name for name in more.commands])
    else:
        tables = [summary_table(name, read_json(own / f"{name}.json")) for name in more.commands]
    return "\n".join([*text, markdown(tables)])


def short_tables(folders: Sequence[Path]) -> list[Table]:
    """Return the tables of several runs: with several settings, only those that compare them, and the studies."""
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
