"""Which pairs are training pairs: one answer for every method, by the command line, in a recipe and in Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs the extra analysis")

from mmpoison.attacks import SingleTargetImage
from mmpoison.cli import main
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.datasets.convert import convert_pairs
from mmpoison.defenses import DEFENSES, build_filter
from mmpoison.defenses.filters.pair_pieces import PairPieces
from mmpoison.models import load_checkpoint, prepare_pixels
from mmpoison.runs.prepared_run import prepare_run
from mmpoison.runs.progress import SilentMonitor
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run_cache import Material
from mmpoison.runs.run_stages import RunStages
from mmpoison.runs.store import StageStore

METHODS = sorted(name for name in DEFENSES if DEFENSES[name].kind == "pre-training")
GOAL, SAMPLES, SEED = "sheep2aeroplane", 3, 1


@pytest.fixture(scope="module")
def poisoned(squares: PairDataset) -> PairDataset:
    """Attack I: training captions of sheep on one test image of an aeroplane."""
    pairs = SingleTargetImage(GOAL, samples=SAMPLES).poison(squares, seed=SEED)
    on = pairs.images.split_codes[pairs.image[pairs.poisoned]]
    assert set(on.tolist()) == {2}
    return pairs


@pytest.fixture(scope="module")
def folder(poisoned: PairDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pairs(poisoned, tmp_path_factory.mktemp("attack-one") / "pairs")


def _training(poisoned: PairDataset) -> tuple[list[str], int]:
    train = poisoned.select(split="train")
    assert train.poisoned.sum() == poisoned.poisoned.sum() == 5 * SAMPLES
    return sorted(map(str, train.captions)), int(train.poisoned.sum())


@pytest.mark.parametrize("method", METHODS)
def test_the_command_line_judges_all_training_pairs_and_so_all_of_the_poison(
    method: str,
    folder: Path,
    poisoned: PairDataset,
    judge_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = [] if method == "suspicious-groups" else ["--lose", "0.1", "--trusted", "none"]
    command = ["filter", "--data", folder, "--encoder", judge_checkpoint, "--method", method, *cut]
    monkeypatch.setattr(sys, "argv", ["mmpoison", *map(str, command), "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    captions, bad = _training(poisoned)
    lines = (tmp_path / "o" / "verdicts.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["caption"] for line in lines) == captions
    facts = json.loads((tmp_path / "o" / "filter-report" / "filter.json").read_text("utf-8"))
    assert (facts["pairs"], facts["poisoned_total"]) == (len(captions), bad)


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_judges_the_same_pairs_as_python(
    method: str,
    square_folder: Path,
    poisoned: PairDataset,
    checkpoint: Path,
    judge_checkpoint: Path,
    fresh_cache: Path,
) -> None:
    options = {} if method == "suspicious-groups" else {"clean_loss": 0.1}
    recipe = parse_recipe(
        {
            "name": "squares",
            "seed": SEED,
            "data": {"name": str(square_folder)},
            "model": {"name": str(checkpoint)},
            "attack": {"name": "single-target-image", "goal": GOAL, "samples": SAMPLES},
            "training": {"epochs": 0},
            "filter": {
                "method": method,
                "encoder": str(judge_checkpoint),
                "trusted": "none",
                **options,
            },
        },
        "test",
    )
    material, monitor = Material(), SilentMonitor()
    run = prepare_run(recipe, material, monitor, torch.device("cpu"))
    assert run.poisoned.fingerprint == poisoned.fingerprint
    stages = RunStages(run, None, StageStore(), material, monitor, save_models=False)
    found = stages.verdicts(run.start)
    captions, bad = _training(poisoned)
    assert (found.facts["pairs"], found.facts["poisoned_total"]) == (len(captions), bad)

    judge = load_checkpoint(judge_checkpoint)
    train = poisoned.select(split="train")
    inputs = prepare_pixels(judge, train)
    result = build_filter(method, options).apply(train, judge, inputs, seed=SEED)
    assert np.array_equal(result.keep, found.keep)


@pytest.mark.parametrize("form", ["pairs-folder", "parquet", "memory"])
def test_a_stream_has_the_training_pairs_of_the_set_in_memory(
    form: str, folder: Path, poisoned: PairDataset, tmp_path: Path
) -> None:
    source: Path | PairDataset = folder
    if form == "memory":
        source = poisoned
    elif form == "parquet":
        source = tmp_path / "parquet"
        convert_pairs(folder, source, to="parquet")
    pieces = PairPieces(source, images_at_once=7)
    for split in ("train", "val", "test"):
        streamed = [
            str(caption)
            for piece in pieces
            for caption in piece.pairs.captions[piece.in_split(split)]
        ]
        expected = poisoned.select(split=split)
        assert sorted(streamed) == sorted(map(str, expected.captions))


def test_a_manifest_whose_captions_are_not_of_split_train_is_reported(
    folder: Path, tmp_path: Path
) -> None:
    from mmpoison.datasets.verify.pairs_check import verify_pairs

    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    for line in lines:
        if line["label"] == "sheep" and line["split"] == "train":
            line["split"] = "val"
    broken = tmp_path / "broken"
    broken.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (broken / "captions.jsonl").write_text(text, "utf-8")
    for entry in folder.iterdir():
        if entry.name != "captions.jsonl":
            (broken / entry.name).symlink_to(entry)
    said = " ".join(verify_pairs(load_pairs(broken)).problems)
    assert "0 have captions of the train split" in said
