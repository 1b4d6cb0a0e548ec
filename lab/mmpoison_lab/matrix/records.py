"""The measurements of a matrix of attacks against defences, read from the table of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.base import as_number
from mmpoison.defenses import DEFENSES, DefenseKind
from mmpoison.errors import InputError
from mmpoison.reporting import DEFENDED_BY, MAIN, Results, Row
from mmpoison.runs import experiment_about

if TYPE_CHECKING:
    import pandas as pd

UNDEFENDED, CLEAN_MODEL = "none", "clean model"
"""Columns that every row has: the poisoned model without a defence, and the clean model."""

NEEDS: dict[DefenseKind, tuple[str, ...]] = {
    "pre-training": ("judge",),
    "in-training": (),
    "post-training": ("clean pairs",),
    "check": ("clean model",),
}
"""What each kind of defence needs."""

PIECE = ["row", "goal", "seed"]
"""Columns that identify a piece: an attack with a goal and a seed."""

GROUPS = {group: model for model, group in DEFENDED_BY.items()}
"""The recipe groups that may contain a matrix's defence, and the model that results from each."""


TEXTS = (
    *("row", "column", "goal", "attack", "goals", "carrier", "surrogate"),
    *("method", "kind", "needs", "note"),
)
"""Columns of texts; empty for none.

`row` and `column` are the names of the attack and of the defence. `goal` was drawn; `goals` were measured: an attack
may choose its target class itself. `kind` is the stage at which the defence acts, or `control`; `note` is the reason
for missing numbers.
"""

NUMBERS = (
    *("poisoned_pairs", "training_pairs", "hit_10", "with_trigger", "utility"),
    *("clean_lost", "caught", "auroc", "average_precision"),
    *("alarms", "named", "p_value", "seconds"),
)
"""Columns of numbers; NaN for none.

`hit_10` is the share of queries of the original class that find a target image among the first 10, as a mean over the
goals; `with_trigger` the same with the trigger on the target images; `utility` the mean Hit@10 of image and text
retrieval. A filter drops the shares `clean_lost` and `caught` of the clean and of the poisoned pairs. `alarms` counts
the goals that a filter suspects, or a check's findings at 1%; `named`: the true goal is the check's first finding.
`seconds` include the training after a filter.
"""


def as_cells(found: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the measurements of a matrix as a table, one row per attack, goal, seed and defence.

    Its columns are `TEXTS`, `seed`, `NUMBERS`, `recall.SHARE` (share of poisoned pairs caught where that share of the
    clean pairs is lost) and `success` (Hit@10, with the trigger if there is one).

    Args:
        found: Some of them per measurement. The last of several measurements of one piece counts.
    """
    import pandas as pd  # half a second, which a dry run has no use for

    table = pd.DataFrame([*found])
    recall = [name for name in table if name.startswith("recall.")]
    table = table.reindex(columns=[*TEXTS, "seed", *NUMBERS, *recall])
    table = table.astype(dict.fromkeys([*NUMBERS, *recall], float))
    table = table.astype(dict.fromkeys(TEXTS, object)).fillna(dict.fromkeys(TEXTS, ""))
    table["success"] = table["with_trigger"].fillna(table["hit_10"])
    return table.drop_duplicates([*PIECE, "column"], keep="last")


@dataclass(frozen=True)
class MatrixFacts:
    """Facts about a matrix.

    Attributes:
        name: Name of the recipe.
        description: Description from the recipe.
        took: Minimum success of the undefended attack for a row to count.
        rows: Names of the rows in order.
        columns: Names of the columns in order, without those that every row has.
        tuning: Whether the runs use the tuning goal and seed.
        data: Name of the data set.
    """

    name: str
    description: str
    took: float
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    tuning: bool
    data: str = ""


def read_matrix(paths: Sequence[Path]) -> tuple[MatrixFacts, pd.DataFrame]:
    """Read a matrix's facts and measurements from folders of `run matrix` and from result files.

    Args:
        paths: Folders and files; rows and columns of the first come first.

    Raises:
        InputError: If one does not belong to a matrix or is broken, or nothing was measured.
    """
    found = [(path, experiment_about(path)) for path in paths]
    rows: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for path, about in found:
        try:
            rows = rows | {**about["matrix"]["rows"], **rows}
            columns = columns | {**about["matrix"]["columns"], **columns}
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{path}: is neither a folder of `run matrix` nor its runs.parquet"
            ) from None
    first = found[0][1]
    try:
        facts = MatrixFacts(
            name=str(first["name"]),
            description=str(first["description"]),
            took=float(first["matrix"]["took"]),
            rows=tuple(rows),
            columns=tuple(columns),
            tuning=bool(first["matrix"]["tuning"]),
            data=str(first["matrix"]["data"]),
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{paths[0]}: experiment.yaml is broken: delete it; the runs are kept"
        ) from None
    needs = {name: tuple(one.get("needs") or ()) for name, one in columns.items()}
    cells = list(_cells(Results.read(paths), needs))
    if not cells:
        raise InputError(f"{paths[0]}: no run is complete yet")
    return facts, as_cells(cells)


def _cells(results: Results, needs: Mapping[str, tuple[str, ...]]) -> Iterator[Row]:
    """Extract the cells of a matrix from the table of results: each run's defence, or the two controls.

    Args:
        results: Results of runs with labels.
        needs: Requirements of columns beyond those of their kind.
    """
    for rows in results.by_run():
        column = str(rows[0].get("labels.defence"))
        if column != UNDEFENDED:
            yield _defended(rows, column, needs.get(column, ()))
            continue
        for name, model in ((UNDEFENDED, "poisoned"), (CLEAN_MODEL, "clean_model")):
            yield _cell(rows, name, model, seconds=rows[0].get(f"run.seconds.train_{model}"))


def _defended(rows: Sequence[Row], column: str, more: tuple[str, ...]) -> Row:
    facts = rows[0]
    group = next(
        one for one in (*GROUPS, "check") if any(key.startswith(f"{one}.") for key in facts)
    )
    # the default repair is not recorded
    model, method = GROUPS.get(group), str(facts.get(f"{group}.method", "clean-finetune"))
    plug_in = DEFENSES[method]
    aligned = getattr(plug_in, "needs_aligned_judge", False)
    needs = ("aligned judge",) if aligned else NEEDS[plug_in.kind]
    found: dict[str, Any] = {"needs": ", ".join((*needs, *more))}
    stages = {"check": ["check"], "filter": ["filter", "train_filtered"]}
    spent = [
        seconds
        for stage in stages.get(group, [f"train_{model}"])
        if (seconds := facts.get(f"run.seconds.{stage}")) is not None
    ]
    if group == "filter":
        found |= _of_filter(facts)
    if group == "check":
        goals = {row["goal"] for row in rows} - {None}
        found |= {
            "alarms": facts.get("run.scan.flagged.poisoned.n"),
            "p_value": facts.get("run.scan.p_value.poisoned"),
            "named": float(facts.get("run.scan.first.poisoned") in goals) if goals else None,
        }
    seconds = sum(spent) if spent else None
    return _cell(rows, column, model, method=method, kind=plug_in.kind, seconds=seconds, **found)


def _of_filter(facts: Row) -> dict[str, Any]:
    pairs, dropped = (
        facts.get(f"run.{name}") for name in ("training_pairs", "filter.dropped_pairs")
    )
    lost = facts.get("run.filter.clean_dropped_share")
    recall = {
        key.removeprefix("run.filter."): value
        for key, value in facts.items()
        if key.startswith("run.filter.recall.")
    }
    return {
        # in a set without poison, every pair is clean
        "clean_lost": dropped / pairs if lost is None and pairs and dropped is not None else lost,
        "caught": facts.get("run.filter.caught_share"),
        "auroc": facts.get("run.filter.auroc"),
        "average_precision": facts.get("run.filter.average_precision"),
        "alarms": facts.get("run.filter.suspected_goals.n"),
        **recall,
    }


def _cell(rows: Sequence[Row], column: str, model: str | None, **found: Any) -> Row:
    """Create the cell of a run, with the numbers of one of its models."""
    facts = rows[0]
    mine = [row for row in rows if row["study"] == MAIN and model and row["model"] == model]
    image, text = (
        _mean(mine[:1], f"utility.{what}_retrieval.hit@10") for what in ("image", "text")
    )
    goals = [str(row["goal"]) for row in mine if row["goal"] is not None]
    return {
        "row": facts.get("labels.attack"),
        "column": column,
        "goal": facts.get("labels.goal"),
        "seed": int(facts["seed"]),
        "attack": facts.get("attack.name"),
        "goals": ", ".join(dict.fromkeys(goals)),
        "carrier": facts.get("run.carrier"),
        "surrogate": facts.get("run.surrogate"),
        "kind": "control",
        "poisoned_pairs": facts.get("run.poisoned_pairs") or None,
        "training_pairs": facts.get("run.training_pairs"),
        "hit_10": _mean(mine, "hit@10"),
        "with_trigger": _mean(mine, "with_trigger.hit@10"),
        "utility": None if image is None or text is None else (image + text) / 2,
        "note": facts.get("run.note"),
        **found,
    }


def _mean(rows: Iterable[Row], name: str) -> float | None:
    known = [value for row in rows if (value := as_number(row.get(name))) is not None]
    return sum(known) / len(known) if known else None
