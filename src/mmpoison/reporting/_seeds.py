"""Several runs as one table: mean and standard deviation over seeds, one block for each recipe, goal and mode."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mmpoison.errors import InputError
from mmpoison.files import read_json
from mmpoison.reporting._summary import MODELS, goals, section
from mmpoison.reporting._text import ABSENT, as_number, visible

COLUMNS = ("Hit@1", "Hit@5", "Hit@10", "MinRank", "IR Hit@10", "TR Hit@10")


@dataclass
class Group:
    """Runs that differ only in their seed."""

    recipe: str
    goal: str
    mode: str
    seeds: list[int] = field(default_factory=list)
    runs: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What the block is called."""
        seeds = ", ".join(str(seed) for seed in sorted(self.seeds))
        pairs = sorted({str(section(run, "run").get("poisoned_pairs")) for run in self.runs})
        return visible(
            f"{self.recipe}, {self.goal}, mode {self.mode}, {'/'.join(pairs)} poisoned pairs, seeds {seeds}"
        )

    def rows(self) -> Iterator[tuple[str, list[str]]]:
        """For each model that was measured its name and its cells."""
        for model in MODELS:
            values = [self._values(run, model.key) for run in self.runs]
            if all(all(v is None for v in value) for value in values):
                continue
            cells = [
                mean_and_deviation([value[i] for value in values], 2 if name == "MinRank" else 3)
                for i, name in enumerate(COLUMNS)
            ]
            yield model.name, cells

    def _values(self, run: Mapping[str, Any], model: str) -> list[float | None]:
        row = section(section(section(run, "goal"), self.goal), model)
        useful = section(section(run, "utility"), model)
        return [
            *(as_number(row.get(key)) for key in ("hit@1", "hit@5", "hit@10", "min_rank")),
            as_number(section(useful, "image_retrieval").get("hit@10")),
            as_number(section(useful, "text_retrieval").get("hit@10")),
        ]


def group_runs(runs: Sequence[Path]) -> list[Group]:
    """Read finished run folders and put those together that differ only in their seed.

    Raises:
        InputError: If a folder holds no metrics, or one seed occurs twice in a group.
    """
    groups: dict[tuple[str, str, str], Group] = {}
    for folder in runs:
        metrics = read_json(folder / "metrics.json")
        run = section(metrics, "run")
        for goal in goals(metrics):
            key = (str(run.get("recipe")), goal, str(run.get("mode")))
            group = groups.setdefault(key, Group(*key))
            seed = int(run.get("seed", 0))
            if seed in group.seeds:
                raise InputError(f"{folder}: seed {seed} of {', '.join(key)} was given twice")
            group.seeds.append(seed)
            group.runs.append(metrics)
    return [groups[key] for key in sorted(groups)]


def mean_and_deviation(values: Sequence[float | None], digits: int) -> str:
    """Mean and sample standard deviation; a dash where nothing was measured.

    >>> mean_and_deviation([1.0, 2.0, 3.0], 1), mean_and_deviation([0.5], 2), mean_and_deviation([None], 2)
    ('2.0 ± 1.0', '0.50', '–')
    """
    known = [value for value in values if value is not None]
    if not known:
        return ABSENT
    mean = f"{statistics.fmean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def summary_table(runs: Sequence[Path]) -> RenderableType:
    """Mean and standard deviation over the seeds of several runs, for the terminal, one table a block.

    Args:
        runs: Finished run folders.
    """
    tables: list[RenderableType] = []
    for group in group_runs(runs):
        table = Table(
            title=Text(group.title, style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_lines=False,
        )
        table.add_column("Model", no_wrap=True)
        for name in COLUMNS:
            table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
        for name, cells in group.rows():
            # below each other, so that a table fits into 80 columns
            table.add_row(name, *(cell.replace(" ± ", "\n± ") for cell in cells))
        tables.append(table)
    tables.append(Text("Mean ± standard deviation over seeds. MinRank counts from 0."))
    return Stack(*tables)


def summary_markdown(runs: Sequence[Path]) -> str:
    """The same as Markdown, one table a block.

    Args:
        runs: Finished run folders.
    """
    blocks: list[str] = []
    for group in group_runs(runs):
        lines = [
            f"**{group.title}**",
            "",
            f"| Model | {' | '.join(COLUMNS)} |",
            f"|---|{'---:|' * len(COLUMNS)}",
            *(f"| {name} | {' | '.join(cells)} |" for name, cells in group.rows()),
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"
