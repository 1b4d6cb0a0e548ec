"""Measures one piece of a matrix: the stages of a run, with the defence of one column after the other."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmpoison import __version__
from mmpoison.attacks import Goal, Surrogate, build_attack
from mmpoison.base import ContentCache, RunProgress, find_device
from mmpoison.defenses import DEFENSES, DefenseKind, auroc, average_precision
from mmpoison.errors import InputError, ResultError
from mmpoison.evaluation import TestEmbeddings, TestSet, probed_test, triggered_success
from mmpoison.images import read_trigger
from mmpoison.models import DualEncoder
from mmpoison.pairs import BoolArray, PairDataset
from mmpoison.runs import (
    AttackPart,
    PreparedRun,
    Recipe,
    RunCache,
    RunStages,
    TrainedModel,
    Verdicts,
    check_models,
    halves_of,
    prepare_run,
    shared_cache,
)
from mmpoison_lab.attacks.matching import nearest_classes
from mmpoison_lab.matrix.part import MatrixPart, MatrixRecipe, MatrixRow
from mmpoison_lab.matrix.plan import MatrixPiece, column_order, column_recipe
from mmpoison_lab.matrix.records import (
    CLEAN_MODEL,
    CLEAN_ROW,
    LOSSES,
    UNDEFENDED,
    MatrixCell,
    cell_file,
    read_cells,
    write_cells,
)

NEEDS: dict[DefenseKind, tuple[str, ...]] = {
    "pre-training": ("judge",),
    "in-training": (),
    "post-training": ("clean pairs",),
    "check": ("clean model",),
}
"""What each kind of defence needs."""


@dataclass(frozen=True)
class PieceTask:
    """One piece, as a worker gets it (`mmpoison.base.workers.Task`).

    Attributes:
        piece: Row, goals and seed.
        recipe: The recipe of the matrix, with the chosen rows and columns.
        out: The folder of the piece: one Parquet file a column.
        device: Where to compute, as the worker finds it (`find_device`).
    """

    piece: MatrixPiece
    recipe: MatrixRecipe
    out: Path
    device: str

    @property
    def id(self) -> str:
        """Name of the piece."""
        return self.piece.id

    @property
    def part(self) -> MatrixPart:
        """The matrix."""
        assert self.recipe.matrix is not None
        return self.recipe.matrix

    @property
    def row(self) -> MatrixRow:
        """The row of the piece."""
        return self.part.rows[self.piece.row]

    @property
    def group(self) -> str:
        """Pieces of one seed share data and a clean model, but for rows with data of their own."""
        return f"{self.piece.seed}/{self.row.single}/{self.row.data_options}"

    @property
    def columns(self) -> list[str]:
        """All columns in the order in which they are measured."""
        return [CLEAN_MODEL, UNDEFENDED, *column_order(self.part.columns)]

    def file(self, column: str) -> Path:
        """Return the file of one column."""
        return cell_file(self.out, column)

    @property
    def missing(self) -> list[str]:
        """The columns that are not measured yet."""
        return [column for column in self.columns if not self.file(column).is_file()]

    def run(self, shared: dict[str, Any], progress: RunProgress) -> None:
        """Measure the columns that are missing; each file is written when its column is done."""
        missing = self.missing
        if not missing:
            return
        run_cache = shared_cache(shared)
        recipe = row_recipe(self.recipe, self.row, self.piece)
        device = find_device(self.device)
        # mistakes of the user stop the matrix; what only this goal lacks becomes a note
        run_cache.pairs(recipe.data, recipe.seed)
        run_cache.encoder(recipe.model.name, device=device)
        try:
            run = _prepared(recipe, self.row, run_cache, progress, device)
        except InputError as error:
            for column in missing:
                cell = replace(_empty(self, column), note=f"not possible: {error}")
                write_cells(self.file(column), [cell])
            return
        measurer = _Measurer(self, run, run_cache, progress)
        for column in missing:
            progress.progress(f"{self.id}: {column}")
            write_cells(self.file(column), [measurer.cell(column)])
        if not self.part.keep_models:
            measurer.stages.evict_own(small=True)


def row_recipe(recipe: MatrixRecipe, row: MatrixRow, piece: MatrixPiece) -> MatrixRecipe:
    """Return the recipe of a piece: its data, attack and seed, and no defences."""
    data = recipe.data.model_copy(
        update={
            "name": f"{recipe.data.name}-b" if row.single else recipe.data.name,
            "options": {**recipe.data.options, **row.data_options},
        }
    )
    goals: str | list[str] = list(piece.goals) if len(piece.goals) > 1 else piece.goal
    attack, judge = recipe.attack, recipe.filter
    if row.attack is not None:
        attack = AttackPart.model_validate({"name": row.attack, "goal": goals, **row.options})
    return recipe.model_copy(
        update={
            "seed": piece.seed,
            "data": data,
            "attack": attack,
            "robust_training": None,
            "sterilize": None,
            # model and judge share the clean images where both are aligned
            "filter": judge if judge is not None and judge.align is not None else None,
            "check": None,
            "study": (),
            "transfer": (),
            "matrix": None,
        }
    )


def _prepared(
    recipe: MatrixRecipe,
    row: MatrixRow,
    run_cache: RunCache,
    progress: RunProgress,
    device: torch.device,
) -> PreparedRun:
    """Load, and poison where the row has an attack.

    Raises:
        InputError: If the goal cannot be reached on the data.
    """
    pairs = run_cache.pairs(recipe.data, recipe.seed)
    if row.attack is None:
        start = run_cache.encoder(recipe.model.name, device=device)
        test = TestSet.of(pairs)
        return PreparedRun(recipe, pairs, pairs, test, (), start, device, halves_of(recipe))

    def surrogate(name: str, of: PairDataset) -> Surrogate:
        return run_cache.surrogate(name, of, progress=progress.progress)

    if row.near:
        goal = Goal.parse(recipe.attack.goals[0], pairs.classes)
        near = nearest_classes(pairs, surrogate(recipe.model.name, pairs), 1)[goal.original]
        attack = recipe.attack.model_copy(update={"goal": f"{goal.original}2{near[0]}"})
        recipe = recipe.model_copy(update={"attack": attack})
    return prepare_run(recipe, run_cache, progress, device, surrogate)


def _empty(task: PieceTask, column: str) -> MatrixCell:
    """Return a cell that says what it is of, and nothing else."""
    row, method = task.row, None
    kind = "control"
    needs: tuple[str, ...] = ()
    if (one := task.part.columns.get(column)) is not None:
        method, plug_in = one.method, DEFENSES[one.method]
        kind = plug_in.kind
        needs = (*NEEDS[plug_in.kind], *one.needs)
        if getattr(plug_in, "needs_aligned_judge", False):
            needs = ("aligned judge", *needs[1:])
    return MatrixCell(
        row=task.piece.row,
        column=column,
        goal=task.piece.goal,
        seed=task.piece.seed,
        attack=row.attack or CLEAN_ROW,
        samples=row.options.get("samples"),
        method=method,
        kind=kind,
        needs=", ".join(needs),
        tool_version=__version__,
        device=find_device(task.device).type,
    )


class _Measurer:
    """Runs the stages of a piece and measures its models; the content cache makes each stage once."""

    def __init__(
        self, task: PieceTask, run: PreparedRun, run_cache: RunCache, progress: RunProgress
    ) -> None:
        self.task, self.run, self.run_cache, self.progress = task, run, run_cache, progress
        self.train = run.poisoned.select(split="train")
        self.stages = self._stages(run.recipe)

    def _stages(self, recipe: Recipe) -> RunStages:
        run = replace(self.run, recipe=recipe, judge_on_features=True)
        return RunStages(
            run, None, ContentCache(), self.run_cache, self.progress, False, evict=True
        )

    # -- what columns share ---------------------------------------------------------------------------------------

    @cached_property
    def start(self) -> DualEncoder:
        return self.stages.pretrained().encoder

    @cached_property
    def undefended(self) -> DualEncoder:
        """The model that is trained on all of the poisoned set."""
        return self._control(UNDEFENDED)[0]

    def _control(self, column: str) -> tuple[DualEncoder, float | None]:
        """Return the model of a control, and the seconds of its training."""
        clean = column == CLEAN_MODEL or self.task.row.attack is None
        name, pairs = ("clean_model", self.run.pairs) if clean else ("poisoned", self.run.poisoned)
        model = self.stages.trained(name, self.start, pairs.select(split="train")).encoder
        return model, self.stages.took(name)

    # -- one column -----------------------------------------------------------------------------------------------

    def cell(self, column: str) -> MatrixCell:
        """Measure one column; what a defence refuses becomes a note."""
        about = replace(_empty(self.task, column), **self._about())
        self.stages.inputs  # noqa: B018 - features are made once for all pieces, and not timed
        try:
            if about.kind == "control":
                model, seconds = self._control(column)
                found = {**self._numbers(model), "training_seconds": seconds}
            else:
                found = self._defended(column, about.kind)
            return replace(about, **found)
        except (InputError, ResultError) as error:
            return replace(about, note=" ".join(str(error).split()))

    def _about(self) -> dict[str, Any]:
        """Describe the poison."""
        row, recipe = self.task.row, self.run.recipe
        found: dict[str, Any] = {"training_pairs": len(self.train)}
        if row.attack is None:
            return found
        attack = build_attack(row.attack, recipe.attack.goals, recipe.attack.options)
        carrier = getattr(getattr(attack, "settings", None), "carrier", None)
        poisoned = self.train.image[self.train.poisoned]
        if len(poisoned) and poisoned.min() >= len(self.run.pairs.images):
            carrier = "new images"
        surrogate = None
        if any(getattr(attack, f"needs_{what}", False) for what in ("embeddings", "pixels")):
            surrogate = getattr(attack, "encoder", None) or recipe.model.name
        return found | {
            "goals": ", ".join(map(str, self.run.goal_targets)),
            "carrier": f"{carrier}, one caption" if row.single else carrier,
            "surrogate": surrogate,
            "poisoned_pairs": int(self.train.poisoned.sum()),
            "poisoned_images": len(np.unique(poisoned)),
        }

    def _defended(self, name: str, kind: str) -> dict[str, Any]:
        """Run the stage of a defence, and measure what it gives."""
        column, dropped = self.task.part.columns[name], None
        if column.as_many_as is not None:
            (other,) = read_cells([self.task.file(column.as_many_as)])
            if not other.dropped:
                nothing = {"dropped": 0, "clean_lost": 0.0, **self._numbers(self.undefended)}
                return {**nothing, "note": f"{column.as_many_as} drops nothing"}
            dropped = other.dropped / len(self.train)
        stages = self._stages(column_recipe(self.task.recipe, self.run.recipe, column, dropped))
        measures = {
            "pre-training": self._filtered,
            "in-training": self._robust,
            "post-training": self._repaired,
            "check": self._checked,
        }
        found = measures[kind](stages)
        stages.evict_own(small=True, keep=("poisoned",))
        return found

    def _filtered(self, stages: RunStages) -> dict[str, Any]:
        verdicts = stages.verdicts(self.start)
        found = _filter_numbers(verdicts, self.train.poisoned)
        found["defence_seconds"] = stages.took("filter")
        if verdicts.keep.all():
            return {**found, **self._numbers(self.undefended)}
        model = self._trained(stages.filtered(self.start, verdicts))
        return {**found, **model, "training_seconds": stages.took("filtered")}

    def _robust(self, stages: RunStages) -> dict[str, Any]:
        model = stages.trained("robust", self.start, self.train)
        return self._trained(model) | {"defence_seconds": stages.took("robust")}

    def _repaired(self, stages: RunStages) -> dict[str, Any]:
        model, _ = stages.sterilized(self.undefended)
        return self._trained(model) | {"defence_seconds": stages.took("sterilized")}

    def _trained(self, model: TrainedModel) -> dict[str, Any]:
        steps = None if model.training is None else model.training.steps
        return {**self._numbers(model.encoder), "steps": steps}

    def _checked(self, stages: RunStages) -> dict[str, Any]:
        part = stages.run.recipe.check
        assert part is not None
        models = {"pretrained": self.start, "poisoned": self.undefended}
        begun = time.perf_counter()
        check = check_models(
            models, self.run.test, stages.inputs, part, self.run.recipe.seed, self.progress
        )["poisoned"]
        seconds = time.perf_counter() - begun
        findings = check.result.findings
        first = findings[0].to_json() if findings else {}
        goals = [str(goal_target) for goal_target in self.run.goal_targets]
        return {
            "alarms": len(check.flagged),
            "p_value": min((one.p_value for one in findings), default=1.0),
            "named": f"{first.get('captions')}2{first.get('images')}" in goals if goals else None,
            "defence_seconds": seconds,
        }

    def _numbers(self, model: DualEncoder) -> dict[str, Any]:
        """Measure a model on the goals and its utility."""
        embeddings = TestEmbeddings.of(model, self.stages.inputs, self.run.test)
        measured = probed_test(embeddings, self.run.test, self.run.goal_targets)
        rows = measured.goal.values()
        image, text = measured.utility.image_retrieval, measured.utility.text_retrieval
        return {
            **{f"hit_{k}": _mean([row.number(f"hit@{k}") for row in rows]) for k in (1, 5, 10)},
            "min_rank": _mean([row.number("min_rank") for row in rows]),
            "with_trigger": _mean(self._with_trigger(model, embeddings)),
            **{f"ir_{k}": image.number(f"hit@{k}") for k in (1, 10)},
            **{f"tr_{k}": text.number(f"hit@{k}") for k in (1, 10)},
        }

    def _with_trigger(self, model: DualEncoder, embeddings: TestEmbeddings) -> list[float | None]:
        """Measure Hit@10 of each goal where the target images carry the trigger; empty without a trigger."""
        manifest = self.run.poisoned.manifest
        if manifest is None or not manifest.trigger:
            return []
        test, trigger = self.run.test, read_trigger(manifest.trigger)
        seed = self.run.recipe.seed
        return [
            triggered_success(model, embeddings, test, one, trigger, seed=seed).hit_10
            for one in self.run.goal_targets
        ]


def _filter_numbers(verdicts: Verdicts, bad: BoolArray) -> dict[str, Any]:
    gone, scores = ~verdicts.keep, verdicts.distances
    goals = verdicts.facts.get("suspected_goals")
    found: dict[str, Any] = {
        "dropped": int(gone.sum()),
        "clean_lost": float(gone[~bad].mean()) if not bad.all() else None,
        "alarms": None if goals is None else len(goals),
    }
    if bad.any() and not bad.all():
        poison, clean = scores[bad], scores[~bad]
        recalls = (recall_at(poison, clean, lost) for lost in LOSSES)
        names = ("recall_01", "recall_1", "recall_2", "recall_5")
        found |= {
            "caught": float(gone[bad].mean()),
            "auroc": auroc(poison, clean),
            "average_precision": average_precision(poison, clean),
            **dict(zip(names, recalls, strict=True)),
        }
    return found


def _mean(values: list[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def recall_at(
    positive: npt.NDArray[np.floating[Any]], negative: npt.NDArray[np.floating[Any]], lost: float
) -> float:
    """Return the share of positives above the scores of all but a share of the negatives, in [0, 1].

    Args:
        positive: Scores of the poisoned pairs, shape `(n,)`.
        negative: Scores of the clean pairs, shape `(m,)`.
        lost: Share of the clean pairs that may be lost, in [0, 1].

    >>> recall_at(np.array([3.0, 9.0]), np.arange(11.0), lost=0.2)
    0.5
    """
    return float((positive > np.quantile(negative, 1 - lost)).mean())
