"""A matrix as a list of runs: its rows, columns and goals."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmpoison.attacks import ATTACKS, Goal, build_attack, takes_several_goals
from mmpoison.base import generator, plain_name, unknown_name
from mmpoison.defenses import DEFENSES, build_defense, build_filter, defense_parameters
from mmpoison.errors import InputError
from mmpoison.runs import (
    CheckPart,
    FilterPart,
    NamedRun,
    Recipe,
    RobustTrainingPart,
    RunList,
    SterilizePart,
    halves_of,
)
from mmpoison.training import TrainingSettings
from mmpoison_lab.attacks.no_poison import NO_POISON
from mmpoison_lab.matrix.part import MatrixColumn, MatrixPart, MatrixRecipe, MatrixRow
from mmpoison_lab.matrix.records import UNDEFENDED

SAMPLES = 25
"""Samples of an attack given only on the command line, as in the paper's recipes."""

CLEAN_LOSS = 0.02
"""Clean loss of a filter given only on the command line and without a default cut."""

FLAGGED = 0.01
"""A check flags findings with a p-value of at most this."""


def random_goals(
    classes: Sequence[str],
    number: int,
    seed: int,
    near: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[str, str]]:
    """Draw distinct goals (original and target class) from all ordered pairs.

    Args:
        classes: The classes.
        number: Number of goals; fewer if there are fewer.
        seed: Seed for the draw.
        near: Allowed target classes per original class; all others by default.

    >>> random_goals(["bird", "sheep"], 5, seed=0)
    [('sheep', 'bird'), ('bird', 'sheep')]
    """
    every = [(a, b) for a in classes for b in classes if a != b]
    if near is not None:
        every = [(a, b) for a, b in every if b in near.get(a, ())]
    # the stream is named after its first user, whose published numbers depend on it
    chosen = generator(seed, "benchmark-goals").permutation(len(every))[:number]
    return [every[place] for place in chosen]


def chosen_part(
    part: MatrixPart,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    goals: int | None = None,
    seeds: Sequence[int] | None = None,
) -> MatrixPart:
    """Choose rows, columns, goals and seeds of a matrix.

    A name that is not a row must be a registered attack, which gets default options and 25 samples.
    A name that is not a column must be a registered defence. Plug-ins of other packages work too.

    Args:
        part: The matrix.
        rows: Names; all rows by default.
        columns: Names; all columns by default. The column named in `as_many_as` is included.
        goals: Number of goals.
        seeds: Seeds.

    Raises:
        InputError: If there is no such attack or defence, or a value is out of range.
    """
    chosen_rows = {name: part.rows.get(name) or _row_of(name, part) for name in rows} or part.rows
    chosen_columns = {
        name: part.columns.get(name) or _column_of(name, part) for name in columns
    } or dict(part.columns)
    for column in list(chosen_columns.values()):
        if (other := column.as_many_as) is not None:
            chosen_columns.setdefault(other, part.columns[other])
    changes = {"goals": goals, "seeds": None if seeds is None else list(seeds)}
    try:
        return MatrixPart.model_validate(
            {
                **part.model_dump(),
                **{key: value for key, value in changes.items() if value is not None},
                "rows": {name: row.model_dump() for name, row in chosen_rows.items()},
                "columns": {name: each.model_dump() for name, each in chosen_columns.items()},
            }
        )
    except ValueError as error:
        reason = str(error).splitlines()[-2].strip().removeprefix("Value error, ")
        raise InputError(f"matrix: {reason.partition(' [type')[0]}") from None


def _row_of(name: str, part: MatrixPart) -> MatrixRow:
    if name not in ATTACKS:
        ATTACKS.refuse_unusable(name)
        raise InputError(f"--with rows: {unknown_name('row', name, [*part.rows, *ATTACKS])}")
    takes = inspect.signature(ATTACKS[name]).parameters
    return MatrixRow.model_validate(
        {
            "attack": name,
            "goals": 2 if takes_several_goals(name) else 1,
            **({"samples": SAMPLES} if "samples" in takes else {}),
        }
    )


def _column_of(name: str, part: MatrixPart) -> MatrixColumn:
    if name not in DEFENSES:
        DEFENSES.refuse_unusable(name)
        raise InputError(
            f"--with columns: {unknown_name('column', name, [*part.columns, *DEFENSES])}"
        )
    plug_in = DEFENSES[name]
    cut = {}
    if plug_in.kind == "pre-training" and getattr(plug_in, "default_cut", None) is None:
        cut = {"clean_loss": CLEAN_LOSS}
    return MatrixColumn.model_validate({"method": name, **cut})


def draw_goals(part: MatrixPart, classes: Sequence[str], *, tuning: bool = False) -> list[str]:
    """Draw the goals of a matrix, the same for each row and seed. A larger number adds to the list.

    Args:
        part: The matrix, with the number of goals and the tuning seed.
        classes: The classes that goals can use.
        tuning: Return the tuning goal, which is never among the others.

    Raises:
        InputError: If there are fewer goals than requested.
    """
    drawn = [f"{a}2{b}" for a, b in random_goals(classes, part.goals + 1, part.tuning_seed)]
    if len(drawn) < part.goals + 1:
        raise InputError(
            f"matrix.goals: {part.goals} goals, and one more to choose settings on, are requested, "
            f"but {len(classes)} classes allow only {len(drawn)}"
        )
    return drawn[:1] if tuning else drawn[1:]


def matrix_runs(
    recipe: MatrixRecipe,
    classes: Sequence[str],
    nearest: Callable[[str, Recipe], str] | None = None,
    *,
    tuning: bool = False,
) -> RunList:
    """List the runs of a matrix: each row, goal and seed with each column, and one without a defence.

    Runs with the same row, goal and seed are adjacent, because they share the poisoned set and models.

    Args:
        recipe: A recipe whose section `matrix` contains the requested rows and columns.
        classes: The classes that goals can use.
        nearest: Returns the target class of a `near` row, given the original class and a run's recipe; None keeps the
            drawn one.
        tuning: Only the tuning goal and seed.

    Raises:
        InputError: If the recipe has no matrix or an error, or two names would share a folder.
    """
    part = recipe.matrix
    if part is None:
        raise InputError(f"recipe {recipe.name}: has no section `matrix`")
    if halves_of(recipe) is not None:
        raise InputError(
            f"recipe {recipe.name}: the model and the judge share the clean images, so they differ from column to "
            "column: use a judge that is not aligned (filter.align)"
        )
    for name, column in part.columns.items():
        check_column(recipe, name, column)
    drawn = draw_goals(part, classes, tuning=tuning)
    runs: list[NamedRun] = []
    for seed in [part.tuning_seed] if tuning else part.seeds:
        for name, row in part.rows.items():
            for goal in drawn if row.attack is not None else [""]:
                goals = _with_others(goal, row, classes, name) if goal else ()
                piece = row_recipe(recipe, name, row, goals, seed)
                if row.near and nearest is not None:
                    original = Goal.parse(goal, classes).original
                    near = f"{original}2{nearest(original, piece)}"
                    attack = piece.attack.model_copy(update={"goal": near})
                    piece = piece.model_copy(update={"attack": attack})
                for other in (UNDEFENDED, *part.columns):
                    made = column_recipe(recipe, piece, other)
                    place = "+".join(
                        map(plain_name, (name, goal or "no-goal", f"seed{seed}", other))
                    )
                    runs.append(NamedRun(place, made))
    (twice, count), *_ = Counter(run.id for run in runs).most_common(1)
    if count > 1:
        raise InputError(f"matrix: two runs have the same folder {twice!r}: rename a row or column")
    shown = part.model_dump(mode="json", exclude={"goals", "seeds"})
    about = {"matrix": {**shown, "tuning": tuning, "data": recipe.data.name}}
    return RunList(recipe.name, recipe.description, tuple(runs), about, note_refusals=True)


def row_recipe(
    recipe: MatrixRecipe, name: str, row: MatrixRow, goals: Sequence[str], seed: int
) -> Recipe:
    """Return the recipe for a row's goals and a seed, without a defence.

    Raises:
        InputError: If the attack has no such option.
    """
    data = recipe.data.model_copy(
        update={
            "name": f"{recipe.data.name}-b" if row.single else recipe.data.name,
            "options": {**recipe.data.options, **row.data_options},
        }
    )
    attack = row.attack or NO_POISON
    build_attack(attack, goals, row.options, f"recipe key matrix.rows.{name}.")
    given = {"name": attack, "goal": list(goals) if len(goals) != 1 else goals[0], **row.options}
    without = {"matrix", "robust_training", "sterilize", "filter", "check", "study", "transfer"}
    return Recipe.model_validate(
        {
            **recipe.model_dump(exclude=without),
            "seed": seed,
            "data": data.model_dump(),
            "attack": given,
            "share_features": True,
            "labels": {"attack": name, "goal": goals[0] if goals else None},
        }
    )


def _with_others(goal: str, row: MatrixRow, classes: Sequence[str], name: str) -> tuple[str, ...]:
    """Add goals of other original classes, with separate target classes or all with the same one."""
    more = row.goals - 1
    if not more:
        return (goal,)
    first, target = next((a, b) for a in classes for b in classes if a != b and f"{a}2{b}" == goal)
    others = [other for other in classes if other not in (first, target)]
    wanted = more if row.one_target else 2 * more
    if len(others) < wanted:
        raise InputError(
            f"matrix.rows.{name}.goals: {row.goals} goals need {wanted + 2} classes, but there are {len(classes)}"
        )
    drawn = [str(other) for other in generator(0, f"benchmark-goals/{goal}").permutation(others)]
    targets = [target] * more if row.one_target else drawn[more:wanted]
    return (goal, *(f"{a}2{b}" for a, b in zip(drawn[:more], targets, strict=True)))


def check_column(recipe: Recipe, name: str, column: MatrixColumn) -> None:
    """Check a column by building its defence.

    Raises:
        InputError: If the defence cannot be built, or a key does not belong to its kind.
    """
    where = f"recipe key matrix.columns.{name}."
    kind = DEFENSES[column.method].kind
    if kind == "pre-training":
        if column.encoder is None and recipe.filter is None:
            raise InputError(
                f"{where}encoder: a filter needs a judge, and the recipe has no filter"
            )
        more = {"clean_loss": CLEAN_LOSS} if column.as_many_as else {}
        build_filter(column.method, {**column.options, **more}, where)
    else:
        settings = repair_settings(recipe, column) if kind == "post-training" else None
        build_defense(kind, column.method, column.options, where, settings)
    given = {
        "encoder": (column.encoder, "pre-training"),
        "as_many_as": (column.as_many_as, "pre-training"),
        "training": (column.training, "post-training"),
    }
    for key, (value, wanted) in given.items():
        if value and kind != wanted:
            raise InputError(f"{where}{key}: defence {column.method!r} is of kind {kind}")


def column_recipe(recipe: MatrixRecipe, piece: Recipe, name: str) -> Recipe:
    """Return the recipe of a row with the defence of a column.

    Args:
        recipe: The recipe of the matrix.
        piece: The recipe of the row.
        name: The column; `UNDEFENDED` for none.
    """
    assert recipe.matrix is not None
    assert piece.labels is not None
    changes: dict[str, Any] = {"labels": piece.labels.model_copy(update={"defence": name})}
    column = recipe.matrix.columns.get(name)
    if column is None:
        return piece.model_copy(update=changes)
    own = {"method": column.method, **column.options}
    match DEFENSES[column.method].kind:
        case "pre-training":
            changes["filter"] = _filter_part(recipe, column)
        case "in-training":
            changes["robust_training"] = RobustTrainingPart.model_validate(own)
        case "post-training":
            settings, pairs = repair_settings(recipe, column), recipe.matrix.repair_pairs
            changes["sterilize"] = SterilizePart.model_validate(
                {**own, "training": settings, "pairs": pairs}
            )
        case _:
            changes["check"] = CheckPart.model_validate({**own, "false_alarms": FLAGGED})
    return piece.model_copy(update=changes)


def _filter_part(recipe: MatrixRecipe, column: MatrixColumn) -> FilterPart:
    judge = recipe.filter or FilterPart(encoder="pretrained")
    assert recipe.matrix is not None
    other = column.as_many_as and recipe.matrix.columns[column.as_many_as]
    return FilterPart.model_validate(
        {
            **column.options,
            "method": column.method,
            "trusted": judge.trusted,
            "force": judge.force,
            "equal_steps": True,
            "encoder": column.encoder or judge.encoder,
            # a column's own encoder is not aligned
            "align": judge.align if column.encoder is None else None,
            "as_many_as": _filter_part(recipe, other) if other else None,
        }
    )


def repair_settings(recipe: Recipe, column: MatrixColumn) -> TrainingSettings | None:
    """Return a repair's training settings: its column's, else the recipe's; None if it takes no settings."""
    if "settings" not in defense_parameters("post-training", column.method):
        return None
    if column.training is not None:
        return column.training
    return recipe.sterilize.training if recipe.sterilize is not None else None
