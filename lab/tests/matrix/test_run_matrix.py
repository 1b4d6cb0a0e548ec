"""The runs of a matrix: measured as by hand, added to, and refused where they do not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import CLASSES, refusal

from mmpoison.attacks import SingleTargetLabel
from mmpoison.attacks.settings import Goal
from mmpoison.datasets import PairDataset
from mmpoison.evaluation import GoalTarget, TestEmbeddings, TestSet, goal_row, utility_row
from mmpoison.models import DualEncoder, load_encoder, prepare_features, prepare_pixels
from mmpoison.models.inputs import add_missing
from mmpoison.records.run_files import Metrics
from mmpoison.runs.prepared_run import filled
from mmpoison.runs.recipe_files import recipe_on
from mmpoison.runs.run_all import ExperimentFolder, run_all
from mmpoison.training import finetune
from mmpoison_lab.matrix.part import MatrixPart, MatrixRecipe, load_matrix
from mmpoison_lab.matrix.plan import chosen_part, matrix_runs
from mmpoison_lab.matrix.records import read_matrix

from .conftest import HEADS, PART, as_matrix, matrix_value

pytestmark = pytest.mark.usefixtures("workers_here")


def cells_of(recipe: MatrixRecipe, out: Path) -> dict[tuple[str, str], Any]:
    """Run a matrix, and return its cells by row and column."""
    state = run_all(matrix_runs(recipe, CLASSES), out)
    assert not state.failed
    cells = read_matrix([out])[1].astype(object)
    rows = (row for _, row in cells.where(cells.notna(), None).iterrows())
    return {(row["row"], row["column"]): row for row in rows}


def test_cells_are_what_a_training_by_hand_gives(
    matrix_recipe: MatrixRecipe, squares: PairDataset, checkpoint: Path, tmp_path: Path
) -> None:
    cells = cells_of(matrix_recipe, tmp_path / "out")
    columns = ["clean model", "none", "relevance-filter", "clean-finetune", "rank-gain"]
    assert set(cells) == {(row, column) for row in ("clean", "II-own") for column in columns}
    assert all(cell.note == "" for cell in cells.values())

    start = load_encoder(str(checkpoint))
    found = cells["II-own", "none"]
    poisoned = SingleTargetLabel(found.goal, samples=2, carrier="own").poison(squares, 5)
    everything = np.arange(len(squares.images), dtype=np.int32)
    inputs = prepare_features(start, squares, images=everything)
    train = poisoned.select(split="train")
    model = finetune(start, train, inputs, matrix_recipe.training, seed=5).encoder
    test = TestSet.of(squares)
    embeddings = TestEmbeddings.of(model, inputs, test)
    row = goal_row(embeddings, test, GoalTarget(Goal.parse(found.goal, squares.classes)))
    utility = utility_row(embeddings, test)
    assert found.success == found.hit_10 == row.hit_10
    assert utility.image_retrieval.hit_10 is not None
    assert utility.text_retrieval.hit_10 is not None
    assert found.utility == (utility.image_retrieval.hit_10 + utility.text_retrieval.hit_10) / 2
    assert (found.carrier, found.kind, found.goals) == ("own", "control", found.goal)
    assert found.poisoned_pairs == int(train.poisoned.sum())
    assert found.training_pairs == len(train)

    def run_of(column: str) -> Any:
        folder = tmp_path / "out" / "runs" / f"II-own+{found.goal}+seed5+{column}"
        return Metrics.read(folder / "metrics.json").run

    # equal optimiser steps
    assert run_of("relevance-filter").training["filtered"].steps == 2 * -(-len(train) // 32)
    assert run_of("relevance-filter").filter.dropped_pairs == round(0.1 * len(train))
    assert run_of("clean-finetune").training["sterilized"].steps == 2
    assert cells["II-own", "relevance-filter"].needs == "aligned judge"
    assert cells["II-own", "relevance-filter"]["recall.0.01"] is not None
    assert cells["II-own", "clean-finetune"].needs == "clean pairs"
    scan = cells["II-own", "rank-gain"]
    assert scan.p_value is not None
    assert (scan.hit_10, scan.needs, scan.named in (0, 1)) == (None, "clean model", True)

    # without poison there are false alarms
    assert cells["clean", "none"].goal == ""
    assert cells["clean", "none"].utility == cells["clean", "clean model"].utility is not None
    assert cells["clean", "none"].success is None
    assert cells["clean", "relevance-filter"].clean_lost == pytest.approx(0.1, abs=0.02)
    assert cells["clean", "relevance-filter"].auroc is None
    assert cells["clean", "rank-gain"].named is None

    # a registered attack is one more row
    part = matrix_recipe.matrix
    assert part is not None
    entry = {"attack": "orphan", "samples": 2}
    more = MatrixPart.model_validate({**part.model_dump(), "rows": {"orphan": entry}})
    more = chosen_part(more, columns=["rank-gain"])
    added = cells_of(matrix_recipe.model_copy(update={"matrix": more}), tmp_path / "out")
    assert set(added) - set(cells) == {("orphan", c) for c in ("clean model", "none", "rank-gain")}
    facts, _ = read_matrix([tmp_path / "out"])
    assert facts.rows == ("clean", "II-own", "orphan")
    assert facts.columns == tuple(PART["columns"])
    # of other settings the folder is refused
    training = matrix_recipe.training.model_copy(update={"epochs": 3})
    longer = matrix_recipe.model_copy(update={"training": training})
    folder = ExperimentFolder(tmp_path / "out")
    assert "a run of another recipe" in refusal(folder.check, matrix_runs(longer, CLASSES))


def test_a_judge_that_is_aligned_too_is_refused(square_folder: Path, checkpoint: Path) -> None:
    value = matrix_value(square_folder, checkpoint)
    align = {**HEADS, "epochs": 1, "learning_rate": 1e-2}
    value["model"] = {**value["model"], "align": align}
    value["filter"] = {"encoder": str(checkpoint), "align": align, "clean_loss": 0.1, "force": True}
    assert "share the clean images" in refusal(matrix_runs, as_matrix(value), CLASSES)


def test_a_backdoor_is_measured_with_its_trigger(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    rows = {"patch": {"attack": "patch-backdoor", "samples": 4}}
    columns = {"relevance-filter": {"method": "relevance-filter", "clean_loss": 0.1}}
    value = matrix_value(square_folder, checkpoint, rows=rows, columns=columns)
    for cell in cells_of(as_matrix(value), tmp_path / "out").values():
        assert cell.note == ""
        assert cell.success == cell.with_trigger is not None
        assert cell.hit_10 is not None
        assert cell.carrier == "new images"


def test_a_goal_that_cannot_be_is_a_note(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    value = matrix_value(
        square_folder,
        checkpoint,
        rows={
            "many": {"attack": "single-target-label", "samples": 99},
            "few": {"attack": "single-target-label", "samples": 2},
        },
        columns={"strict": {"method": "relevance-filter", "threshold": 0.001}},
    )
    cells = cells_of(as_matrix(value), tmp_path / "out")
    many = [cell.note for (row, _), cell in cells.items() if row == "many"]
    assert len(many) == 3
    assert all(note.startswith("not possible: ") for note in many)
    assert cells["few", "none"].note == ""
    assert "drops every pair" in cells["few", "strict"].note


def test_a_control_drops_as_many_pairs(
    square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    columns = {
        "control": {"method": "random-drop", "as_many_as": "filter"},
        "nothing": {"method": "random-drop", "as_many_as": "none at all"},
        "filter": {"method": "relevance-filter", "threshold": 1.0},
        "none at all": {"method": "relevance-filter", "threshold": 1.99},
    }
    rows = {"few": {"attack": "single-target-label", "samples": 2}}
    value = matrix_value(square_folder, checkpoint, columns=columns, rows=rows)
    cells_of(as_matrix(value), tmp_path / "out")
    dropped = {
        folder.name.rpartition("+")[2]: facts.dropped_pairs
        for folder in (tmp_path / "out" / "runs").iterdir()
        if (facts := Metrics.read(folder / "metrics.json").run.filter) is not None
    }
    assert dropped["filter"]
    assert dropped["control"] == dropped["filter"]
    assert dropped["nothing"] == dropped["none_at_all"] == 0


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


@pytest.mark.parametrize("data", ["openmoji", "openmoji-both"])
def test_what_is_published_fits_the_recipes(data: str) -> None:
    file = Path(__file__).parents[3] / "lab/docs/results/matrix" / data / "runs.parquet"
    recipe = load_matrix(recipe_on("matrix", data))
    assert recipe.matrix is not None
    facts, cells = read_matrix([file])
    assert facts.data == recipe.data.name
    assert set(facts.rows) == set(recipe.matrix.rows)
    assert set(facts.columns) >= set(recipe.matrix.columns)
    assert set(cells["seed"]) == set(recipe.matrix.seeds)
