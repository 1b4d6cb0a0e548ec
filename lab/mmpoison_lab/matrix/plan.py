"""Plans a matrix: which rows and columns, which goals, and the list of its pieces."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmpoison.attacks import ATTACKS, build_attack, takes_several_goals
from mmpoison.base import generator, plain_name, unknown_name
from mmpoison.defenses import DEFENSES, build_defense, build_filter, defense_parameters
from mmpoison.errors import InputError
from mmpoison.runs import (
    CheckPart,
    FilterPart,
    Recipe,
    RobustTrainingPart,
    SterilizePart,
)
from mmpoison.training import TrainingSettings
from mmpoison_lab.matrix.part import MatrixColumn, MatrixPart, MatrixRecipe, MatrixRow
from mmpoison_lab.matrix.records import CLEAN_MODEL, UNDEFENDED, piece_folder

SAMPLES = 25
"""Of an attack that is named on the command line alone: what the recipes of the paper take."""

CLEAN_LOSS = 0.02
"""Of a filter that is named on the command line alone and has no cut of its own."""

FLAGGED = 0.01
"""A check flags what clean models show at most this often."""


@dataclass(frozen=True)
class MatrixPiece:
    """One attack with one goal and one seed, measured with every column.

    Attributes:
        row: Name of its row.
        goals: Its goals, the first one that was drawn first; empty for a row without poison.
        seed: Seed of data, attack and training.
    """

    row: str
    goals: tuple[str, ...]
    seed: int

    @property
    def goal(self) -> str:
        """The goal that was drawn, or empty."""
        return self.goals[0] if self.goals else ""

    @property
    def id(self) -> str:
        """Its name, and that of its folder: `ROW/GOAL-seedN`."""
        return piece_folder(self.row, self.goal, self.seed)


def random_goals(
    classes: Sequence[str],
    number: int,
    seed: int,
    near: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[str, str]]:
    """Draw different goals, each an original and a target class, from all ordered pairs.

    Args:
        classes: The classes.
        number: How many goals; fewer are given where there are fewer.
        seed: Seed of the draw.
        near: The target classes that each original class may have; all others by default.

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

    A name that is no row is an attack of the registry, with its default options and 25 samples. A name that is no
    column is a defence of the registry. Both may be of another installed package.

    Args:
        part: The matrix.
        rows: Names; all rows by default.
        columns: Names; all columns by default. `as_many_as` brings the column along that it names.
        goals: How many goals.
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
    """Draw the goals of a matrix, the same for each row and seed; more goals begin with the same ones.

    Args:
        part: How many goals, and the seed on which settings are chosen.
        classes: The classes between which goals are possible.
        tuning: Return the one goal on which settings are chosen, which is never among the others.

    Raises:
        InputError: If there are fewer goals than are asked for.
    """
    drawn = [f"{a}2{b}" for a, b in random_goals(classes, part.goals + 1, part.tuning_seed)]
    if len(drawn) < part.goals + 1:
        raise InputError(
            f"matrix.goals: {part.goals} goals, and one more to choose settings on, are requested, "
            f"but {len(classes)} classes allow only {len(drawn)}"
        )
    return drawn[:1] if tuning else drawn[1:]


def plan_pieces(
    part: MatrixPart, classes: Sequence[str], *, tuning: bool = False
) -> list[MatrixPiece]:
    """List the pieces, seed by seed, so that workers share data and clean models.

    Args:
        part: The matrix.
        classes: As for `draw_goals`.
        tuning: As for `draw_goals`.

    Raises:
        InputError: As `draw_goals`, or if a row wants more original classes than there are.
    """
    goals = draw_goals(part, classes, tuning=tuning)
    pieces: list[MatrixPiece] = []
    for seed in [part.tuning_seed] if tuning else part.seeds:
        for name, row in part.rows.items():
            if row.attack is None:
                pieces.append(MatrixPiece(name, (), seed))
                continue
            pieces += [
                MatrixPiece(name, _with_others(goal, row, classes, name), seed) for goal in goals
            ]
    return pieces


def _with_others(goal: str, row: MatrixRow, classes: Sequence[str], name: str) -> tuple[str, ...]:
    """Add goals of other original classes, each with a target class of its own or all with the same one."""
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


def column_order(columns: Mapping[str, MatrixColumn]) -> list[str]:
    """Order columns so that each `as_many_as` comes after the filter it names.

    Raises:
        InputError: If they name each other in a circle.
    """
    ordered: list[str] = []
    left = dict(columns)
    while left:
        ready = [
            name
            for name, column in left.items()
            if column.as_many_as is None or column.as_many_as in ordered
        ]
        if not ready:
            raise InputError(f"matrix.columns.{next(iter(left))}.as_many_as: is a circle")
        ordered += ready
        left = {name: column for name, column in left.items() if name not in ready}
    return ordered


def check_matrix(recipe: Recipe, part: MatrixPart, pieces: Sequence[MatrixPiece]) -> None:
    """Build every attack and every defence once, so that a mistake is found before anything is trained.

    Raises:
        InputError: If a name or option is wrong, or two names would have one folder.
    """
    for what, names in (("rows", part.rows), ("columns", [*part.columns, UNDEFENDED, CLEAN_MODEL])):
        (folder, count), *_ = Counter(map(plain_name, names)).most_common(1)
        if count > 1:
            raise InputError(f"matrix.{what}: two have the same folder {folder!r}: rename one")
    goals = {piece.row: piece.goals for piece in pieces}
    for name, row in part.rows.items():
        if row.attack is not None:
            build_attack(row.attack, goals[name], row.options, f"recipe key matrix.rows.{name}.")
    for name, column in part.columns.items():
        check_column(recipe, name, column)
    column_order(part.columns)


def check_column(recipe: Recipe, name: str, column: MatrixColumn) -> None:
    """Build the defence of a column.

    Raises:
        InputError: If it cannot be built, or a key does not belong to its kind.
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


def column_recipe(
    recipe: MatrixRecipe, piece: Recipe, column: MatrixColumn, dropped: float | None = None
) -> Recipe:
    """Return the recipe of a piece with the defence of one column.

    Args:
        recipe: The recipe of the matrix.
        piece: The recipe of the piece, without defences.
        column: The column.
        dropped: For `as_many_as`: the share of the pairs that the other filter drops.
    """
    own = {"method": column.method, **column.options}
    kind = DEFENSES[column.method].kind
    if kind == "pre-training":
        judge = recipe.filter or FilterPart(encoder="pretrained")
        own |= {"trusted": judge.trusted, "force": judge.force, "equal_steps": True}
        own["encoder"] = column.encoder or judge.encoder
        if column.encoder is None:  # one of its own is not aligned
            own["align"] = judge.align
        if dropped is not None:
            own["clean_loss"] = dropped
        return piece.model_copy(update={"filter": FilterPart.model_validate(own)})
    if kind == "in-training":
        robust = RobustTrainingPart.model_validate(own)
        return piece.model_copy(update={"robust_training": robust})
    if kind == "post-training":
        assert recipe.matrix is not None
        own |= {"training": repair_settings(recipe, column), "pairs": recipe.matrix.repair_pairs}
        return piece.model_copy(update={"sterilize": SterilizePart.model_validate(own)})
    check = CheckPart.model_validate({**own, "false_alarms": FLAGGED})
    return piece.model_copy(update={"check": check})


def repair_settings(recipe: Recipe, column: MatrixColumn) -> TrainingSettings | None:
    """Return how a repair trains: as its column says, else as the recipe's; None where it takes no settings."""
    if "settings" not in defense_parameters("post-training", column.method):
        return None
    if column.training is not None:
        return column.training
    return recipe.sterilize.training if recipe.sterilize is not None else None
