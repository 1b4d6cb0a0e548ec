"""Measures one piece of a matrix: poisons once, trains the undefended model once, then every column."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpoison._version import __version__
from mmpoison.attacks.catalogue import build_attack
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.surrogate import Surrogate, nearest_classes
from mmpoison.base.content_cache import ContentCache, digest_of
from mmpoison.base.files import plain_name
from mmpoison.base.processes import find_device
from mmpoison.base.seeding import generator
from mmpoison.defenses.catalogue import (
    DEFENSES,
    Kind,
    ModelCheck,
    TrainingServices,
    build_defense,
    train_with,
)
from mmpoison.defenses.filters.filter_result import (
    FilterResult,
    auroc,
    average_precision,
    recall_at,
)
from mmpoison.defenses.filters.judging import filter_pairs
from mmpoison.defenses.filters.score_filter import build_filter
from mmpoison.defenses.repairs.repair import repair_branches, run_repair
from mmpoison.defenses.repairs.repair_watch import RepairMeter, RepairRule, hold_out
from mmpoison.errors import InputError, ResultError
from mmpoison.evaluation.measure import triggered_success
from mmpoison.evaluation.rows import goal_row, utility_row
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.images.triggers import read_trigger
from mmpoison.models.compute_environment import compute_environment
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, add_missing
from mmpoison.pairs.table import PairDataset
from mmpoison.records.matrix import (
    CLEAN_MODEL,
    CLEAN_ROW,
    LOSSES,
    UNDEFENDED,
    MatrixCell,
    cell_file,
    read_cells,
    write_cells,
)
from mmpoison.runs.matrix.plan import MatrixPiece, column_order, repair_settings
from mmpoison.runs.matrix_part import MatrixColumn, MatrixPart, MatrixRow
from mmpoison.runs.prepared_run import PreparedRun, prepare_run, repair_pairs
from mmpoison.runs.progress import RunProgress
from mmpoison.runs.recipe import AttackPart, FilterPart, Recipe, SterilizePart
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.run_stages import RunStages
from mmpoison.runs.trained_models import read_model, store_model
from mmpoison.training.loop import TrainingResult, finetune
from mmpoison.training.states import Checkpoints

WORK = ".work"
FLAGGED = 0.01
"""A check flags what clean models show at most this often."""
HELD_OUT = 0.2
"""Share of the clean images of a repair that chooses among learning rates."""

NEEDS: dict[Kind, tuple[str, ...]] = {
    "pre-training": ("judge",),
    "in-training": (),
    "post-training": ("clean pairs",),
    "check": ("clean model",),
}
"""What each kind of defence needs."""


@dataclass(frozen=True)
class PieceTask:
    """One piece, as a worker gets it (`mmpoison.runs.sweeps.workers.Task`).

    Attributes:
        piece: Row, goals and seed.
        recipe: The recipe of the matrix, with the chosen rows and columns.
        out: The folder of the piece: one Parquet file a column.
        device: Where to compute, as the worker finds it (`find_device`).
    """

    piece: MatrixPiece
    recipe: Recipe
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

    def run(self, loaded: Callable[[], RunCache], progress: RunProgress) -> None:
        """Measure the columns that are missing; each file is written when its column is done."""
        missing = self.missing
        if not missing:
            return
        run_cache = loaded()
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
        measurer.clear()


def row_recipe(recipe: Recipe, row: MatrixRow, piece: MatrixPiece) -> Recipe:
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
    recipe: Recipe,
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
        return PreparedRun(recipe, pairs, pairs, TestSet.of(pairs), (), start, device)

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
    """Trains and measures the models of one piece; what columns share is made once."""

    def __init__(
        self, task: PieceTask, run: PreparedRun, run_cache: RunCache, progress: RunProgress
    ) -> None:
        self.task, self.run, self.run_cache, self.progress = task, run, run_cache, progress
        self.recipe, self.seed, self.training = task.recipe, run.recipe.seed, run.recipe.training
        self.train = run.poisoned.select(split="train")
        computed = compute_environment(run.device)
        made_of = [run.recipe.model_dump(mode="json"), run.poisoned.fingerprint, computed]
        self.work = task.out / WORK / digest_of(made_of)[:12]

    def clear(self) -> None:
        """Delete what only a piece that was stopped needs."""
        if not self.task.part.keep_models:
            shutil.rmtree(self.task.out / WORK, ignore_errors=True)

    # -- what columns share ---------------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> RunStages:
        """The stages of the clean set, which all pieces of a seed share through the content cache."""
        clean = replace(self.run, poisoned=self.run.pairs)
        return RunStages(clean, self.work, ContentCache(), self.run_cache, self.progress, False)

    @cached_property
    def start(self) -> DualEncoder:
        return self.stages.pretrained().encoder

    @cached_property
    def clean_model(self) -> DualEncoder:
        train = self.run.pairs.select(split="train")
        return self.stages.trained("clean_model", self.start, train).encoder

    @cached_property
    def inputs(self) -> PairInputs:
        return add_missing(
            self.stages.inputs, self.run.start, self.run.poisoned, progress=self.progress.progress
        )

    @cached_property
    def undefended(self) -> DualEncoder:
        """The model that is trained on all of the poisoned set."""
        if self.task.row.attack is None:
            return self.clean_model
        folder = self.work / "undefended"
        name = f"{self.recipe.name}-undefended"
        try:
            return read_model(folder, self.start, name)[0].encoder
        except InputError:
            result = self._finetuned(self.train, "undefended")
        store_model(folder, self.start, result, [])
        return result.encoder

    def _finetuned(self, pairs: PairDataset, name: str) -> TrainingResult:
        states = Checkpoints(self.work / "states" / plain_name(name))
        result = finetune(
            *(self.start, pairs, self.inputs, self.training),
            seed=self.seed,
            name=f"{self.recipe.name}-{plain_name(name)}",
            on_step=self.progress.training(f"{self.task.id}: training {name}"),
            checkpoints=states,
        )
        states.clear()
        return result

    # -- one column -----------------------------------------------------------------------------------------------

    def cell(self, column: str) -> MatrixCell:
        """Measure one column; what a defence refuses becomes a note."""
        about = replace(_empty(self.task, column), **self._about())
        try:
            return replace(about, **self._measures()[about.kind](column))
        except (InputError, ResultError) as error:
            return replace(about, note=" ".join(str(error).split()))

    def _measures(self) -> dict[str, Callable[[str], dict[str, Any]]]:
        return {
            "control": self._control,
            "pre-training": self._filtered,
            "in-training": self._robust,
            "post-training": self._repaired,
            "check": self._checked,
        }

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

    def _control(self, column: str) -> dict[str, Any]:
        self.inputs  # noqa: B018 - features are made once for all pieces, and not timed
        begun = time.perf_counter()
        model = self.clean_model if column == CLEAN_MODEL else self.undefended
        seconds = time.perf_counter() - begun
        return {**self._numbers(model), "training_seconds": seconds}

    def _filtered(self, name: str) -> dict[str, Any]:
        column = self.task.part.columns[name]
        judged = self._judge(column)  # features are made once for all pieces, and not timed
        begun = time.perf_counter()
        result = self._verdicts(column, *judged)
        found: dict[str, Any] = {"defence_seconds": time.perf_counter() - begun}
        keep = np.ones(len(self.train), dtype=bool) if result is None else result.keep
        if result is not None:
            found |= _filter_numbers(result, self.train.poisoned)
        else:
            found |= {"dropped": 0, "clean_lost": 0.0, "note": f"{column.as_many_as} drops nothing"}
        if keep.all():
            return {**found, **self._numbers(self.undefended)}
        begun = time.perf_counter()
        trained = self._finetuned(filled(self.train, keep, self.seed), name)
        found["training_seconds"] = time.perf_counter() - begun
        return {**found, **self._numbers(trained.encoder), "steps": trained.steps}

    def _judge(self, column: MatrixColumn) -> tuple[DualEncoder, PairInputs]:
        """Return the judge of a filter, with inputs of the poisoned set."""
        part = self.recipe.filter
        if column.encoder is not None:  # of its own: not aligned
            part = FilterPart(encoder=column.encoder)
        judge, known = self.stages.judge(
            part or FilterPart(encoder="pretrained"), self.start, on_features=True
        )
        if judge is self.start:
            return judge, self.inputs
        return judge, add_missing(
            known(), judge, self.run.poisoned, progress=self.progress.progress
        )

    def _verdicts(
        self, column: MatrixColumn, judge: DualEncoder, inputs: PairInputs
    ) -> FilterResult | None:
        """Filter the poisoned set; None where the filter it is compared with drops nothing."""
        options = column.options
        if column.as_many_as is not None:
            (other,) = read_cells([self.task.file(column.as_many_as)])
            if not other.dropped:
                return None
            options["clean_loss"] = other.dropped / len(self.train)
        part = self.recipe.filter
        return filter_pairs(
            *(self.run.poisoned, judge, build_filter(column.method, options)),
            trusted=part.trusted if part is not None else "val",
            force=bool(part and part.force),
            inputs=inputs,
            seed=self.seed,
        )

    def _robust(self, name: str) -> dict[str, Any]:
        column = self.task.part.columns[name]
        states = Checkpoints(self.work / "states" / plain_name(name))
        services: TrainingServices = {
            "name": f"{self.recipe.name}-{plain_name(name)}",
            "on_step": self.progress.training(f"{self.task.id}: training {name}"),
            "checkpoints": states,
        }
        begun = time.perf_counter()
        result = train_with(
            build_defense("in-training", column.method, column.options),
            *(self.start, self.train, self.inputs, self.training),
            seed=self.seed,
            services=services,
        )
        seconds = time.perf_counter() - begun
        states.clear()
        numbers = self._numbers(result.encoder)
        return {**numbers, "steps": result.steps, "defence_seconds": seconds}

    def _repaired(self, name: str) -> dict[str, Any]:
        column, suspect = self.task.part.columns[name], self.undefended
        settings = repair_settings(self.recipe, column)
        part = SterilizePart.model_validate(
            {
                "method": column.method,
                "training": settings or self.training,
                "pairs": self.task.part.repair_pairs,
            }
        )
        clean, meter = repair_pairs(self.run.poisoned, part, self.run.recipe.seed), None
        if column.learning_rates:
            clean, held_out = hold_out(clean, HELD_OUT, self.seed)
            rule = RepairRule(stop=False)
            meter = RepairMeter(suspect, self.inputs, held_out, rule, seed=self.seed)
        begun = time.perf_counter()
        result = run_repair(
            *(suspect, clean, self.inputs),
            repair_branches(column.method, column.options, settings, column.learning_rates),
            seed=self.seed,
            meter=meter,
            work=self.work / "repairs" / plain_name(name),
            shown=lambda branch: self.progress.training(f"{self.task.id}: {name}, {branch.label}"),
        )
        seconds = time.perf_counter() - begun
        if result is None:
            return {"note": "no learning rate keeps the utility", "defence_seconds": seconds}
        numbers = self._numbers(result.encoder)
        return {**numbers, "steps": result.steps, "defence_seconds": seconds}

    def _checked(self, name: str) -> dict[str, Any]:
        column = self.task.part.columns[name]
        checker: ModelCheck = build_defense("check", column.method, column.options)
        begun = time.perf_counter()
        result = checker.apply(
            *(self.undefended, self.run.test, self.inputs), reference=self.start, seed=self.seed
        )
        found: dict[str, Any] = {"defence_seconds": time.perf_counter() - begun}
        first = result.findings[0].to_json() if result.findings else {}
        goals = [str(goal_target) for goal_target in self.run.goal_targets]
        return found | {
            "alarms": len(result.flagged(FLAGGED)),
            "p_value": min((one.p_value for one in result.findings), default=1.0),
            "named": f"{first.get('captions')}2{first.get('images')}" in goals if goals else None,
        }

    def _numbers(self, model: DualEncoder) -> dict[str, Any]:
        """Measure a model on the goals and its utility."""
        embeddings = TestEmbeddings.of(model, self.inputs, self.run.test)
        rows = [goal_row(embeddings, self.run.test, one) for one in self.run.goal_targets]
        utility = utility_row(embeddings, self.run.test)
        image, text = utility.image_retrieval, utility.text_retrieval
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
        return [
            triggered_success(model, embeddings, test, one, trigger, seed=self.seed).hit_10
            for one in self.run.goal_targets
        ]


def filled(train: PairDataset, keep: np.ndarray[Any, np.dtype[np.bool_]], seed: int) -> PairDataset:
    """Fill the places of dropped pairs with pairs that stayed, drawn at random.

    So a filtered set has as many pairs as the set it was made from, and its training has the same number of optimiser
    steps, with the same learning rate at each.

    Args:
        train: The training pairs.
        keep: Which of them stay, shape `(N,)`.
        seed: Seed of the run.
    """
    stays = np.flatnonzero(keep)
    again = generator(seed, "matrix/filled").choice(stays, int((~keep).sum()))
    rows = np.sort(np.concatenate([stays, again]))
    return replace(
        train, captions=train.captions[rows], image=train.image[rows], source=train.source[rows]
    )


def _filter_numbers(
    result: FilterResult, bad: np.ndarray[Any, np.dtype[np.bool_]]
) -> dict[str, Any]:
    gone, scores = ~result.keep, result.scores
    found: dict[str, Any] = {
        "dropped": int(gone.sum()),
        "clean_lost": float(gone[~bad].mean()) if not bad.all() else None,
        "alarms": None if result.goals is None else len(result.goals),
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
