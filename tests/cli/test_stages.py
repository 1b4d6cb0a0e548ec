"""The verbs in a row, as a user strings them together; and what reaches the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import squares_recipe

Cli = Callable[..., Any]


# -- what reaches the terminal ---------------------------------------------------------------------

EVIL = "\x1b[31mred\x1b[0m \x1b]0;title\x07 [red]markup[/nope] \u202egnp"
RAW = ("\x1b", "\x07", "\u202e", "\x9b")


def evil_folder(work: Path) -> Path:
    """One class and its captions are full of terminal escapes and markup."""
    file = work / "captions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["label"] == "sheep":
            line["label"] = EVIL
            line["captions"] = [f"{EVIL} {text}" for text in line["captions"]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return work


def nothing_raw(result: Any) -> None:
    for text in (result.out, result.err):
        assert not any(character in text for character in RAW), repr(text)


def test_captions_and_classes_never_reach_the_terminal_raw(
    cli: Cli, own_square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    work = evil_folder(own_square_folder)
    good = cli(
        *("poison", work, "--goal", f"{EVIL}2aeroplane", "--samples", "2"),
        *("--out", tmp_path / "out"),
    )
    assert good.code == 0
    nothing_raw(good)
    nothing_raw(cli("data", "verify", tmp_path / "out"))
    wrong = cli(
        "poison", work, "--goal", "sheep2aeroplane", "--samples", "2", "--out", tmp_path / "x"
    )
    assert wrong.code == 2
    nothing_raw(wrong)
    shown = cli("evaluate", "--data", work, "--model", checkpoint, "--goal", f"{EVIL}2aeroplane")
    assert shown.code == 0
    nothing_raw(shown)
    assert "[red]markup[/nope]" in shown.out.replace("\n", "")
    # a caption in an error
    file = tmp_path / "out" / "captions.jsonl"
    file.write_text(file.read_text().replace("picture 1 word", "image 1 word"))
    differs = cli("data", "verify", tmp_path / "out")
    assert differs.code == 1
    assert "manifest and captions differ" in differs.out
    nothing_raw(differs)


def test_image_names_never_reach_the_terminal_raw(cli: Cli, own_square_folder: Path) -> None:
    file = own_square_folder / "captions.jsonl"
    with file.open("a") as stream:
        stream.write(json.dumps({"image": f"{EVIL}.png", "captions": ["x"]}) + "\n")
    result = cli("data", "verify", own_square_folder)
    assert result.code == 1
    nothing_raw(result)
    assert "[red]markup" in result.out


def test_a_recipes_words_never_reach_the_terminal_raw(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path, fresh_cache: Path
) -> None:
    recipe = squares_recipe(square_folder, checkpoint, name=EVIL, description=f"what {EVIL}")
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    result = cli("run", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    assert result.code == 0, result.err
    nothing_raw(result)


def test_a_stopped_command_says_how_to_go_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, square_folder: Path
) -> None:
    from mmpoison.datasets import verify as pairs_check

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pairs_check, "load_to_verify", stop)
    result = cli("data", "verify", square_folder)
    assert result.code == 130
    assert result.err.splitlines() == ["mmpoison: stopped; run the same command again to resume"]


# -- whole runs ------------------------------------------------------------------------------------


def test_run_and_report(
    cli: Cli,
    square_folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    training = {"epochs": 1, "max_steps": 2, "precision": "fp32"}
    recipe = squares_recipe(square_folder, checkpoint, training=training)
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    given = (
        *("--goals", "sofa2bird", "--set", "attack.mode=replace"),
        *("--set", "training.max_steps=1"),
    )
    result = cli("run", "recipe.yaml", "--seeds", "0-1", *given, "--workers", "1")
    assert result.code == 0, result.err
    folders = [tmp_path / "runs" / "recipe" / "runs" / f"seed{seed}" for seed in (0, 1)]
    found = {}
    for folder in folders:
        found[folder.name] = metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["run"]["mode"] == "replace"
        assert metrics["run"]["training"]["poisoned"]["steps"] == 1
        assert list((folder / "models").iterdir())
    # one seed by itself gives the same
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "another"))
    alone = cli("run", "recipe.yaml", "--seeds", "1", *given, "--no-models", "--out", "alone")
    assert alone.code == 0, alone.err
    assert not (tmp_path / "alone" / "models").exists()
    single = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    for part in ("goal", "utility"):
        assert single[part] == found["seed1"][part] != found["seed0"][part]
    assert "2 of 2 runs are complete" in result.out
    # the means of the seeds, and how the rest is printed
    assert "Hit@10" in result.out
    assert "mmpoison report runs/recipe --all" in result.out
    again = cli("report", folders[0])
    assert again.code == 0
    assert "<html" in (folders[0] / "report.html").read_text()
    assert "Hit@10" in again.out
    table = cli("report", *folders, "--markdown", tmp_path / "table.md")
    assert table.code == 0
    assert cli("report", *folders, "--as", "markdown").out == (tmp_path / "table.md").read_text()


def test_evaluate_to_the_letter(
    cli: Cli, square_folder: Path, checkpoint: Path, judge_checkpoint: Path, tmp_path: Path
) -> None:
    """Three baselines, one target image, another set's manifest."""
    models = ("--model", checkpoint, "--reference", judge_checkpoint, "--pretrained", checkpoint)
    image = "aeroplane/09.png"
    result = cli(
        *("evaluate", "--data", square_folder, *models, "--goal", "sheep2aeroplane"),
        *("--target-image", image, "--json"),
    )
    assert result.code == 0, result.err
    metrics = json.loads(result.out)
    rows = metrics["goal"]["sheep2aeroplane"]
    assert set(rows) == {"pretrained", "clean_model", "poisoned", "random_captions"}
    assert {row["targets"] for row in rows.values()} == {1}
    assert metrics["run"]["target_images"] == {"sheep2aeroplane": image}

    poisoned = tmp_path / "poisoned"
    cli("poison", square_folder, "--goal", "sofa2bird", "--samples", "2", "--out", poisoned)
    elsewhere = cli(
        *("evaluate", "--data", square_folder, *models, "--as", "markdown"),
        *("--manifest", poisoned / "manifest.json", "--study", "queries"),
    )
    assert "| Model, captions of the poison |" in elsewhere.out
    assert elsewhere.out.startswith("**sofa2bird, seeds 0**\n")
    # the past of a model is the question: it is called neither poisoned nor clean
    alone = cli("evaluate", "--data", square_folder, "--model", checkpoint, "--goal", "sheep2sofa")
    rows = alone.out.partition("───\n ")[2] or alone.out.partition("─ \n ")[2]
    names = [line.split()[0] for line in rows.partition("Model: ")[0].splitlines() if line.strip()]
    assert names == ["Model", "random"], alone.out
    assert f"Model: {checkpoint}" in alone.out.replace("\n", "")
    assert "poisoned" not in alone.out.lower()
