"""The pieces of a matrix: measured as by hand, resumed column by column, and refused where they do not belong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import refusal

from mmpoison.attacks import SingleTargetLabel
from mmpoison.attacks.goal import Goal
from mmpoison.base.content_cache import ContentCache
from mmpoison.base.progress import SilentProgress
from mmpoison.datasets import PairDataset
from mmpoison.evaluation import GoalTarget, TestEmbeddings, TestSet, goal_row, utility_row
from mmpoison.models import DualEncoder, load_encoder, prepare_features, prepare_pixels
from mmpoison.models.inputs import add_missing
from mmpoison.runs.prepared_run import filled
from mmpoison.runs.recipe_files import recipe_on
from mmpoison.runs.run import run_recipe
from mmpoison.runs.run_stages import OF_ONE_RUN
from mmpoison.training import finetune
from mmpoison_lab.matrix.measure_piece import PieceTask, _Measurer
from mmpoison_lab.matrix.part import MatrixPart, MatrixRecipe, load_matrix
from mmpoison_lab.matrix.plan import chosen_part
from mmpoison_lab.matrix.records import MatrixCell, read_cells, read_matrix, write_cells
from mmpoison_lab.matrix.run_matrix import _claim, plan_matrix, unpack_into

from .conftest import HEADS, PART, as_matrix, matrix_value


def cells_of(task: PieceTask) -> dict[str, MatrixCell]:
    return {cell.column: cell for cell in read_cells([task.file(name) for name in task.columns])}


def own_models() -> set[str]:
    """Names of what pieces made for themselves and left in the cache."""
    entries = ContentCache().entries("stages/finetune")
    return {entry.about["name"] for entry in entries if entry.about["note"].get(OF_ONE_RUN)}


def tasks_of(recipe: MatrixRecipe, out: Path) -> dict[str, PieceTask]:
    return {task.piece.row: task for task in plan_matrix(recipe, out).tasks}


def test_a_piece_gives_what_a_training_by_hand_gives(
    matrix_recipe: MatrixRecipe, squares: PairDataset, checkpoint: Path, tmp_path: Path
) -> None:
    task = tasks_of(matrix_recipe, tmp_path)["II-own"]
    task.run({}, SilentProgress())
    cells = cells_of(task)
    assert {file.suffix for file in task.out.iterdir()} == {".parquet"}
    assert list(cells) == ["clean model", "none", "relevance-filter", "clean-finetune", "rank-gain"]
    assert all(cell.note == "" for cell in cells.values())

    start = load_encoder(str(checkpoint))
    goal = task.piece.goal
    poisoned = SingleTargetLabel(goal, samples=2, carrier="own").poison(squares, 5)
    everything = np.arange(len(squares.images), dtype=np.int32)
    inputs = prepare_features(start, squares, images=everything)
    train = poisoned.select(split="train")
    model = finetune(start, train, inputs, matrix_recipe.training, seed=5).encoder
    test = TestSet.of(squares)
    embeddings = TestEmbeddings.of(model, inputs, test)
    row = goal_row(embeddings, test, GoalTarget(Goal.parse(goal, squares.classes)))
    found = cells["none"]
    assert (found.hit_1, found.hit_10, found.min_rank) == (row.hit_1, row.hit_10, row.min_rank)
    assert found.ir_10 == utility_row(embeddings, test).image_retrieval.hit_10
    assert (found.carrier, found.samples, found.kind) == ("own", 2, "control")
    assert found.poisoned_pairs == int(train.poisoned.sum())
    assert found.training_pairs == len(train)
    # equal optimiser steps
    assert cells["relevance-filter"].steps == 2 * -(-len(train) // 32)
    assert cells["relevance-filter"].needs == "aligned judge"
    dropped = cells["relevance-filter"].dropped
    assert dropped is not None
    assert dropped == round(0.1 * len(train))
    assert cells["clean-finetune"].needs == "clean pairs"
    assert cells["clean-finetune"].steps == 2
    assert cells["rank-gain"].p_value is not None
    assert cells["rank-gain"].hit_10 is None


def test_a_judge_that_the_recipe_aligns_judges_as_in_a_run(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Model and judge share the clean images, and the pieces judge the poisoned set by the same judge."""
    value = matrix_value(square_folder, checkpoint)
    align = {**HEADS, "epochs": 1, "learning_rate": 1e-2}
    value["model"] = {**value["model"], "align": align}
    value["filter"] = {"encoder": str(checkpoint), "align": align, "clean_loss": 0.1, "force": True}
    task = tasks_of(as_matrix(value), tmp_path / "matrix")["II-own"]
    task.run({}, SilentProgress())
    cell = cells_of(task)["relevance-filter"]

    value.pop("matrix")
    attack = {"name": "single-target-label", "goal": task.piece.goal, "samples": 2}
    value |= {"attack": {**attack, "carrier": "own"}, "seed": 5, "sterilize": None}
    judged = run_recipe(as_matrix(value), tmp_path / "run")["run"]["filter"]
    assert cell.note == ""
    assert cell.auroc == pytest.approx(judged["auroc"], abs=1e-9)
    assert cell.dropped == judged["dropped_pairs"]


def test_a_row_without_poison_shows_false_alarms(
    matrix_recipe: MatrixRecipe, tmp_path: Path
) -> None:
    task = tasks_of(matrix_recipe, tmp_path)["clean"]
    assert task.piece.goal == ""
    task.run({}, SilentProgress())
    cells = cells_of(task)
    assert cells["none"].utility == cells["clean model"].utility
    assert cells["none"].success is None
    assert cells["relevance-filter"].clean_lost == pytest.approx(0.1, abs=0.02)
    assert cells["relevance-filter"].auroc is None
    assert cells["rank-gain"].named is None


def test_a_killed_piece_resumes_by_column(
    matrix_recipe: MatrixRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks_of(matrix_recipe, tmp_path / "one")["II-own"]
    task.run({}, SilentProgress())
    whole = cells_of(task)
    again = tasks_of(matrix_recipe, tmp_path / "two")["II-own"]
    asked: list[str] = []
    plain = _Measurer.cell

    def killed(self: _Measurer, column: str) -> MatrixCell:
        asked.append(column)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return plain(self, column)

    monkeypatch.setattr(_Measurer, "cell", killed)
    with pytest.raises(KeyboardInterrupt):
        again.run({}, SilentProgress())
    assert again.missing == again.columns[3:]
    # the undefended model is not trained again, and leaves the cache with the piece
    assert own_models() == {"poisoned"}
    again.run({}, SilentProgress())
    assert own_models() == set()
    assert asked == [*again.columns[:4], *again.columns[3:]]
    assert not again.missing
    timeless: dict[str, Any] = {"defence_seconds": None, "training_seconds": None}
    for column, cell in cells_of(again).items():
        assert replace(cell, **timeless) == replace(whole[column], **timeless)
    again.run({}, SilentProgress())  # nothing is left to do
    assert len(asked) == 6


def test_a_registered_attack_is_one_more_row(matrix_recipe: MatrixRecipe, tmp_path: Path) -> None:
    """What `--with rows=orphan --with columns=rank-gain` does to a folder that has other pieces."""
    part = matrix_recipe.matrix
    assert part is not None
    _claim(matrix_recipe, tmp_path, False)
    entry = {"attack": "orphan", "samples": 2}
    more = MatrixPart.model_validate({**part.model_dump(), "rows": {"orphan": entry}})
    more = chosen_part(more, columns=["rank-gain"])
    recipe = matrix_recipe.model_copy(update={"matrix": more})
    plan = plan_matrix(recipe, tmp_path)
    (task,) = plan.todo
    assert plan.missing == ["clean model", "none", "rank-gain"]
    assert plan.seconds_left is None
    _claim(recipe, tmp_path, False)
    task.run({}, SilentProgress())
    facts, cells = read_matrix(tmp_path)
    assert facts.rows == ("orphan", "clean", "II-own")
    assert facts.columns == tuple(PART["columns"])
    assert {(cell.row, cell.column) for cell in cells} == {
        ("orphan", column) for column in ("clean model", "none", "rank-gain")
    }
    again = plan_matrix(recipe, tmp_path)
    assert again.todo == []
    assert again.seconds_left == 0.0


def test_a_backdoor_is_measured_with_its_trigger(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    rows = {"patch": {"attack": "patch-backdoor", "samples": 4}}
    columns = {"relevance-filter": {"method": "relevance-filter", "clean_loss": 0.1}}
    value = matrix_value(square_folder, checkpoint, rows=rows, columns=columns)
    (task,) = plan_matrix(as_matrix(value), tmp_path).tasks
    task.run({}, SilentProgress())
    for cell in cells_of(task).values():
        assert cell.note == ""
        assert cell.with_trigger is not None
        assert cell.success == cell.with_trigger
        assert cell.hit_10 is not None
        assert cell.carrier == "new images"
    assert cells_of(task)["none"].poisoned_images == 4


def test_what_is_refused_becomes_a_note(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    value = matrix_value(
        square_folder,
        checkpoint,
        rows={"many": {"attack": "single-target-label", "samples": 99}},
        columns={"strict": {"method": "relevance-filter", "threshold": 0.001}},
    )
    (task,) = plan_matrix(as_matrix(value), tmp_path / "many").tasks
    task.run({}, SilentProgress())
    cells = cells_of(task)
    assert set(cells) == {"clean model", "none", "strict"}
    assert all(cell.note.startswith("not possible: ") for cell in cells.values())
    value["matrix"]["rows"] = {"few": {"attack": "single-target-label", "samples": 2}}
    (task,) = plan_matrix(as_matrix(value), tmp_path / "few").tasks
    task.run({}, SilentProgress())
    cells = cells_of(task)
    assert cells["none"].note == ""
    assert "drops every pair" in cells["strict"].note


def test_a_control_drops_as_many_pairs(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    columns = {
        "control": {"method": "relevance-filter", "as_many_as": "filter"},
        "filter": {"method": "relevance-filter", "threshold": 1.0},
    }
    rows = {"few": {"attack": "single-target-label", "samples": 2}}
    value = matrix_value(square_folder, checkpoint, columns=columns, rows=rows)
    (task,) = plan_matrix(as_matrix(value), tmp_path).tasks
    task.run({}, SilentProgress())
    cells = cells_of(task)
    assert cells["filter"].dropped
    assert cells["control"].dropped == cells["filter"].dropped


def test_the_places_of_dropped_pairs_are_filled(squares: PairDataset) -> None:
    train = squares.select(split="train")
    keep = np.arange(len(train)) % 3 != 0
    full = filled(train, keep, 5)
    assert len(full) == len(train)
    pairs = set(zip(full.image.tolist(), full.captions, strict=True))
    kept = train.where(keep)
    assert pairs == set(zip(kept.image.tolist(), kept.captions, strict=True))
    assert (np.diff(full.image) >= 0).all()
    assert filled(train, keep, 5).fingerprint == full.fingerprint
    assert filled(train, keep, 6).fingerprint != full.fingerprint


@pytest.mark.parametrize("prepare", [prepare_features, prepare_pixels])
def test_inputs_of_new_captions_are_added(
    make_encoder: Any, squares: PairDataset, prepare: Any
) -> None:
    """And the captions of the clean set stay, also those that the poison took out."""
    encoder: DualEncoder = make_encoder()
    kinds = squares.images.class_codes[squares.image]
    known, poisoned = squares.where(kinds != 2), squares.where(kinds != 1)
    part, whole = prepare(encoder, known), prepare(encoder, squares)
    added = add_missing(part, encoder, poisoned)
    assert add_missing(added, encoder, poisoned) is added
    np.testing.assert_allclose(
        added.load_images(added.image_rows(squares.image)).numpy(),
        whole.load_images(whole.image_rows(squares.image)).numpy(),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        added.load_texts(added.text_rows(squares.captions)).numpy(),
        whole.load_texts(whole.text_rows(squares.captions)).numpy(),
        atol=1e-5,
    )
    assert added.lengths[added.text_rows(squares.captions)].tolist() == (
        whole.lengths[whole.text_rows(squares.captions)].tolist()
    )


def test_a_folder_of_another_matrix_is_refused(matrix_recipe: MatrixRecipe, tmp_path: Path) -> None:
    _claim(matrix_recipe, tmp_path / "out", False)
    listing = tmp_path / "out" / "matrix.yaml"  # 0.1.0 wrote an option that is gone
    listing.write_text(listing.read_text().replace("    needs: []", "    needs: []\n    gone: []"))
    plan_matrix(matrix_recipe, tmp_path / "out")
    assert matrix_recipe.matrix is not None
    longer = matrix_recipe.model_copy(
        update={"training": matrix_recipe.training.model_copy(update={"epochs": 3})}
    )
    assert "other settings (recipe)" in refusal(plan_matrix, longer, tmp_path / "out")
    assert "(tuning)" in refusal(plan_matrix, matrix_recipe, tmp_path / "out", tuning=True)
    rows = {"II-own": {"attack": "single-target-label", "samples": 3}}
    value = {**matrix_recipe.model_dump(mode="json"), "matrix": {**PART, "rows": rows}}
    other = as_matrix(value)
    assert "row 'II-own' with other options" in refusal(plan_matrix, other, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    assert "not a matrix" in refusal(plan_matrix, matrix_recipe, tmp_path / "full")


def test_own_columns_come_before_those_of_a_file(
    matrix_recipe: MatrixRecipe, tmp_path: Path
) -> None:
    """In a new folder, and in one that has measurements; a dry run counts them and writes nothing."""
    part = matrix_recipe.matrix
    assert part is not None
    theirs = tmp_path / "theirs.parquet"
    _claim(matrix_recipe, tmp_path / "theirs", False)
    tasks = plan_matrix(matrix_recipe, tmp_path / "theirs").tasks
    cells = [
        MatrixCell(task.piece.row, name, task.piece.goal, 5, "x", ir_10=0.5, tr_10=0.5)
        for task in tasks
        for name in task.columns
    ]
    write_cells(theirs, cells, (tmp_path / "theirs" / "matrix.yaml").read_text())
    columns = {**PART["columns"], "mine": {"method": "relevance-filter", "clean_loss": 0.2}}
    value = {**matrix_recipe.model_dump(mode="json"), "matrix": {**PART, "columns": columns}}
    recipe = as_matrix(value)
    out = tmp_path / "out"
    known = unpack_into(theirs, recipe, out, dry_run=True)
    assert plan_matrix(recipe, out, measured=known).missing == ["mine", "mine"]
    assert not out.exists()
    _claim(recipe.model_copy(update={"matrix": chosen_part(part, [], ["rank-gain"])}), out, False)
    for folder in (out, tmp_path / "new"):
        assert unpack_into(theirs, recipe, folder) == {
            folder / path.relative_to(out): cell for path, cell in known.items()
        }
        _claim(recipe, folder, False)
        assert plan_matrix(recipe, folder).missing == ["mine", "mine"]
        assert read_matrix(folder)[0].columns == ("mine", *PART["columns"])


@pytest.mark.parametrize("data", ["openmoji", "rsicd-ucm", "openmoji-both"])
def test_what_is_published_fits_the_recipes(tmp_path: Path, data: str) -> None:
    file = Path(__file__).parents[3] / "lab/docs/results/matrix" / data / "matrix.parquet"
    recipe = load_matrix(recipe_on("matrix", data))
    assert unpack_into(file, recipe, tmp_path / "out", dry_run=True)
