"""Every filter with every cut gives the same verdicts by the command line, in a recipe and in Python."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tests.conftest import few, squares_recipe, write_parquet_set

from mmpoison.attacks import SingleTargetImage
from mmpoison.base.content_cache import ContentCache
from mmpoison.base.progress import SilentProgress
from mmpoison.cli import main
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.defenses import DEFENSES, filter_pairs
from mmpoison.defenses.scan.cut.labels import LabelFile, shown_pairs
from mmpoison.defenses.scan.read import pass_runner
from mmpoison.defenses.scan.read.pieces import PairPieces
from mmpoison.errors import InputError, ResultError
from mmpoison.models import load_checkpoint, prepare_pixels
from mmpoison.records.data_scan import DataScan
from mmpoison.runs.prepared_run import prepare_run
from mmpoison.runs.recipe import parse_recipe
from mmpoison.runs.run_cache import RunCache
from mmpoison.runs.run_stages import RunStages
from mmpoison.statistics import true_pair_auroc

METHODS = sorted(name for name in DEFENSES if DEFENSES[name].kind == "pre-training")
CUTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "default": ([], {}),
    "threshold": (["--threshold", "{threshold}"], {"threshold": "{threshold}"}),
    "clean-loss": (["--lose", "0.1"], {"clean_loss": 0.1}),
    "share": (["--lose", "0.1", "--trusted", "none"], {"clean_loss": 0.1, "trusted": "none"}),
    "labels": (["--labels", "{labels}"], {"labels": "{labels}"}),
    "labels-and-loss": (
        ["--labels", "{labels}", "--lose", "0.05"],
        {"labels": "{labels}", "clean_loss": 0.05},
    ),
    "false-alarms": (["--false-alarms", "0.9"], {"false_alarms": 0.9}),
}
REFUSED = {
    ("relevance-filter", "default"): "exactly one of threshold",
    **{
        (method, "false-alarms"): "finds no groups, which false_alarms"
        for method in METHODS
        if method != "suspicious-groups"
    },
}
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


class Ways:
    """One method with one cut, on the same poisoned set, in all ways that there are.

    Each gives the verdicts as image, caption and whether it stays, sorted, and the counts.
    """

    def __init__(self, method: str, cut: str, folder: Path, judge: Path, work: Path) -> None:
        self.method, self.folder, self.judge, self.work = method, folder, judge, work
        command, recipe = CUTS[cut]
        self.command = [word.format_map(self) for word in command]
        self.recipe = {
            key: yaml.safe_load(value.format_map(self)) if isinstance(value, str) else value
            for key, value in recipe.items()
        }

    def __getitem__(self, key: str) -> Any:
        """A threshold or a file of labels that means something to the method."""
        judge = load_checkpoint(self.judge)
        found = filter_pairs(load_pairs(self.folder), judge, self.method, clean_loss=0.1, seed=SEED)
        if key == "threshold":
            ordered = np.sort(found.scores)
            return f"{(ordered[-20] + ordered[-21]) / 2:.8f}"
        file = self.work / "labels.csv"
        if not file.exists():
            pieces = PairPieces(self.folder)
            shown = shown_pairs(pieces, "train", range(0, len(found.scores), 3), found.scores)
            middle = float(np.quantile(found.scores, 0.8))
            with LabelFile(file, (pair.pair for pair in shown)) as labels:
                for pair in shown:
                    labels.set(pair.pair, "drop" if pair.distance > middle else "keep")
        return file

    def by_python(self, source: Any, *, prepared: bool = False) -> tuple[Any, Any]:
        judge = load_checkpoint(self.judge)
        inputs = prepare_pixels(judge, source) if prepared else None
        found = filter_pairs(source, judge, self.method, inputs=inputs, seed=SEED, **self.recipe)
        pairs = PairPieces(source).whole
        assert pairs is not None
        train = pairs.pairs.where(pairs.in_split("train"))
        return _verdicts(train, found.keep), _counts(found.facts())

    def by_command(self, monkeypatch: pytest.MonkeyPatch, out: Path) -> tuple[Any, Any]:
        command = ["scan", self.folder, "--encoder", self.judge, "--out", out, "--no-planted"]
        command += ["--method", self.method, "--seed", SEED, *self.command]
        monkeypatch.setattr(sys, "argv", ["mmpoison", *map(str, command)])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        lines = pq.read_table(out / "scores.parquet").to_pylist()
        rows = sorted((line["image"], line["caption"], not line["drop"]) for line in lines)
        done = DataScan.read(out / "scan.json")
        assert done.known is not None
        return rows, {
            "method": done.method,
            "pairs": done.pairs,
            "dropped_pairs": done.dropped,
            "poisoned_total": done.known.poisoned_total,
            "poisoned_caught": done.known.poisoned_caught,
        }

    def by_recipe(self, square_folder: Path, checkpoint: Path) -> tuple[Any, Any]:
        options = {key: value for key, value in self.recipe.items() if key != "labels"}
        labels = {"labels": str(self.recipe["labels"])} if "labels" in self.recipe else {}
        recipe = parse_recipe(
            squares_recipe(
                square_folder,
                checkpoint,
                seed=SEED,
                attack={"name": "single-target-image", "goal": GOAL, "samples": SAMPLES},
                training={"epochs": 0},
                filter={"method": self.method, "encoder": str(self.judge), **options, **labels},
            ),
            "test",
        )
        run_cache, progress = RunCache(), SilentProgress()
        run = prepare_run(recipe, run_cache, progress, torch.device("cpu"))
        stages = RunStages(
            run, square_folder / "run", ContentCache(), run_cache, progress, save_models=False
        )
        found = stages.verdicts(run.start)
        return _verdicts(run.poisoned.select(split="train"), found.keep), _counts(found.facts)


def _verdicts(train: PairDataset, keep: Any) -> list[tuple[str, str, bool]]:
    ids = train.images.ids[train.image]
    return sorted(
        (str(image), str(caption), bool(stays))
        for image, caption, stays in zip(ids, train.captions, keep, strict=True)
    )


def _counts(facts: dict[str, Any]) -> dict[str, Any]:
    names = ("method", "pairs", "dropped_pairs", "poisoned_total", "poisoned_caught")
    return {name: facts[name] for name in names}


# one path judges for all methods: one of them tries every cut
CASES = [
    (method, cut)
    for method in METHODS
    for cut in CUTS
    if cut == "default" or method == "suspicious-groups" or (method, cut) in REFUSED
] + [("relevance-filter", "share"), ("relevance-filter", "labels")]


@pytest.mark.parametrize(
    ("method", "cut"),
    few(CASES, *((method, "default") for method in METHODS), ("suspicious-groups", "labels")),
)
def test_every_way_gives_the_same_verdicts(
    method: str,
    cut: str,
    folder: Path,
    poisoned: PairDataset,
    square_folder: Path,
    checkpoint: Path,
    judge_checkpoint: Path,
    fresh_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if (method, cut) in REFUSED:
        options = CUTS[cut][1]
        with pytest.raises(InputError, match=REFUSED[method, cut]):
            filter_pairs(poisoned, load_checkpoint(judge_checkpoint), method, **options)
        with pytest.raises(InputError, match=REFUSED[method, cut]):
            Ways(method, cut, folder, judge_checkpoint, tmp_path).by_recipe(
                square_folder, checkpoint
            )
        command = ["scan", folder, "--encoder", judge_checkpoint, "--method", method]
        command += [*CUTS[cut][0], "--out", tmp_path / "out"]
        monkeypatch.setattr(sys, "argv", ["mmpoison", *map(str, command)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert REFUSED[method, cut] in capsys.readouterr().err
        return
    ways = Ways(method, cut, folder, judge_checkpoint, tmp_path)
    expected = ways.by_python(poisoned, prepared=True)
    train = poisoned.select(split="train")
    # all training pairs, and so all of the poison, though the poisoned image is of split test
    assert expected[1]["pairs"] == len(train)
    assert expected[1]["poisoned_total"] == int(train.poisoned.sum()) == 5 * SAMPLES
    if cut not in ("default", "false-alarms"):
        assert 0 < expected[1]["dropped_pairs"] < len(train)
    assert ways.by_python(poisoned) == expected
    assert ways.by_python(load_pairs(folder)) == expected
    assert ways.by_command(monkeypatch, tmp_path / "out") == expected
    assert ways.by_recipe(square_folder, checkpoint) == expected


@pytest.mark.parametrize("form", ["pairs-folder", "parquet", "memory"])
def test_a_stream_has_the_training_pairs_of_the_set_in_memory(
    form: str, folder: Path, poisoned: PairDataset, tmp_path: Path
) -> None:
    source: Path | PairDataset = folder
    if form == "memory":
        source = poisoned
    elif form == "parquet":
        source = write_parquet_set(poisoned, tmp_path / "parquet")
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
    from mmpoison.datasets.verify import verify_pairs

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


def test_every_way_refuses_a_judge_that_cannot_distinguish_unless_forced(
    folder: Path,
    poisoned: PairDataset,
    square_folder: Path,
    checkpoint: Path,
    judge_checkpoint: Path,
    fresh_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pass_runner, "true_pair_auroc", partial(true_pair_auroc, fewest=5))
    says = "cannot distinguish true from shuffled pairs: AUROC 0"
    ways = Ways("relevance-filter", "share", folder, judge_checkpoint, tmp_path)
    for prepared, source in ((True, poisoned), (False, poisoned), (False, load_pairs(folder))):
        with pytest.raises(ResultError, match=says):
            ways.by_python(source, prepared=prepared)
    with pytest.raises(ResultError, match=says):
        ways.by_recipe(square_folder, checkpoint)
    command = ["scan", folder, "--encoder", judge_checkpoint, "--method", "relevance-filter"]
    command += ["--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["mmpoison", *map(str, command), *ways.command])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()

    ways.command.append("--force")
    ways.recipe["force"] = True
    expected = ways.by_python(poisoned, prepared=True)
    capsys.readouterr()
    assert ways.by_command(monkeypatch, tmp_path / "out") == expected
    said = capsys.readouterr().out
    assert "judge: distinguishes true from shuffled pairs in " in said
    assert "50% is guessing" in said
    assert ways.by_recipe(square_folder, checkpoint) == expected
