"""The verbs in a row, as a user strings them together; and what reaches the terminal."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.conftest import squares_recipe

from mmpoison.datasets import load_pairs
from mmpoison.models import load_checkpoint

Cli = Callable[..., Any]
SETTINGS = [
    *("--set", "epochs=1", "--set", "batch_size=32"),
    *("--set", "learning_rate=1e-3", "--set", "precision=fp32"),
]


def test_the_chain(
    cli: Cli, square_folder: Path, checkpoint: Path, judge_checkpoint: Path, tmp_path: Path
) -> None:
    """poison -> data verify -> train -> evaluate -> scan -> sterilize."""

    def ok(*arguments: str | Path) -> str:
        result = cli(*arguments)
        assert result.code == 0, result.err
        assert "mmpoison:" not in result.err  # lines of progress alone
        return str(result.out)

    poisoned, model = tmp_path / "poisoned", tmp_path / "model"
    out = ok(
        "poison", square_folder, "--goal", "sheep2aeroplane", "--samples", "3", "--out", poisoned
    )
    assert "15 poisoned pairs of 155 (9.677%)" in out
    assert int(load_pairs(poisoned).poisoned.sum()) == 15

    out = ok("data", "verify", poisoned, "--clean", square_folder)
    assert "no format errors" in out
    assert "sheep2aeroplane" in out
    found = json.loads(ok("data", "verify", poisoned, "--json"))
    assert found["problems"] == []
    assert found["poison"]["pairs"] == 15

    out = ok("train", "--data", poisoned, "--model", checkpoint, "--out", model, *SETTINGS)
    assert "5 steps" in out
    encoder = load_checkpoint(model)
    assert encoder.name == "model"
    assert encoder.config["mmpoison"]["poisoned"] is True
    assert "POISONED ON PURPOSE" in (model / "README.md").read_text()

    measured = tmp_path / "measured"
    out = ok(
        *("evaluate", "--data", square_folder, "--model", model, "--goal", "sheep2aeroplane"),
        *("--reference", checkpoint, "--out", measured),
    )
    assert "Hit@10" in out
    metrics = json.loads((measured / "metrics.json").read_text())
    assert set(metrics["goal"]["sheep2aeroplane"]) == {"poisoned", "clean_model", "random_captions"}
    assert set(metrics["utility"]) == {"poisoned", "clean_model"}
    assert metrics["drift"]["text"] > 0
    assert metrics["run"]["flags"] == []

    kept = tmp_path / "kept"
    out = ok(
        *("scan", poisoned, "--encoder", judge_checkpoint, "--method", "relevance-filter"),
        *("--lose", "0.2", "--out", tmp_path / "scan", "--kept", kept, "--workers", "1"),
    )
    assert "155 pairs in 1 shard" in out
    verdicts = pq.read_table(tmp_path / "scan" / "scores.parquet")["drop"].to_pylist()
    assert len(verdicts) == 155
    dropped = sum(verdicts)
    assert len(load_pairs(kept)) == len(load_pairs(poisoned)) - dropped
    assert "no format errors" in ok("data", "verify", kept)

    repaired = tmp_path / "repaired"
    ok("sterilize", "--data", square_folder, "--model", model, "--out", repaired, *SETTINGS)
    assert load_checkpoint(repaired).config["mmpoison"]["poisoned"] is True
    assert "A suspect model after a repair with clean pairs" in (repaired / "README.md").read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_images_none_and_replace(cli: Cli, square_folder: Path, tmp_path: Path) -> None:
    result = cli(
        *("poison", square_folder, "--goal", "sheep2sofa", "--pairs", "4", "--mode", "replace"),
        *("--images", "none", "--out", tmp_path / "out"),
    )
    assert result.code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".mmpoison.json",
        "README.md",
        "captions.jsonl",
        "manifest.json",
    }
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["mode"] == "replace"


# -- what reaches the terminal ---------------------------------------------------------------------

EVIL = "\x1b[31mred\x1b[0m \x1b]0;title\x07 [red]markup[/nope] \u202egnp"
RAW = ("\x1b", "\x07", "\u202e", "\x9b")


def evil_folder(work: Path, *, label: str = "sheep", caption: str = "a sheep") -> Path:
    """One class or caption is full of terminal escapes and markup."""
    file = work / "captions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["label"] == "sheep":
            line["label"] = label
            line["captions"] = [f"{caption} {text}" for text in line["captions"]]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return work


def nothing_raw(result: Any) -> None:
    for text in (result.out, result.err):
        assert not any(character in text for character in RAW), repr(text)


def test_captions_and_classes_never_reach_the_terminal_raw(
    cli: Cli, own_square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    work = evil_folder(own_square_folder, label=EVIL, caption=EVIL)
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
    assert differs.code in (1, 2)
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


def test_a_models_name_never_reaches_the_terminal_raw(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    config = json.loads((model / "open_clip_config.json").read_text())
    config["mmpoison"] = {"name": EVIL}
    (model / "open_clip_config.json").write_text(json.dumps(config))
    arguments = ("evaluate", "--data", square_folder, "--model", model, "--goal", "sheep2sofa")
    result = cli(*arguments)
    assert result.code == 0
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
    written = (tmp_path / "table.md").read_text()
    assert "|" in written
    assert cli("report", *folders, "--as", "markdown").out == written
    assert json.loads(cli("report", "runs", "--json").out)[0]["rows"][0]["n"] == 2
    models = cli("report", "runs", "--models", "clean_model,poisoned", "--json")
    assert json.loads(models.out)[0]["rows"][0]["n"] == 2
    for folder, seed in zip(folders, (0, 1), strict=True):
        shutil.copytree(folder, tmp_path / "others" / f"seed{seed}")
    against = cli("report", "runs", "--against", tmp_path / "others")
    assert against.code == 0, against.err
    assert "paired by seed" in against.out
    refused = cli("report", "runs", "--against", "others", "--models", "clean_model,poisoned")
    assert refused.code == 2
    assert cli("report", "runs", "--models", "poisoned").code == 2


def test_evaluate_to_the_letter(
    cli: Cli, square_folder: Path, checkpoint: Path, judge_checkpoint: Path, tmp_path: Path
) -> None:
    """Three baselines, one target image, several goals, studies, the manifest's goals, formats."""
    models = ("--model", checkpoint, "--reference", judge_checkpoint, "--pretrained", checkpoint)
    image = "aeroplane/09.png"
    result = cli(
        *("evaluate", "--data", square_folder, *models, "--goal", "sheep2aeroplane"),
        *("--target-image", image, "--study", "all", "--json", "--out", tmp_path / "out"),
    )
    assert result.code == 0, result.err
    metrics = json.loads(result.out)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    rows = metrics["goal"]["sheep2aeroplane"]
    assert set(rows) == {"pretrained", "clean_model", "poisoned", "random_captions"}
    assert {row["targets"] for row in rows.values()} == {1}
    assert metrics["run"]["target_images"] == {"sheep2aeroplane": image}
    assert set(metrics["study"]) == {"queries", "query_length", "collateral", "distribution"}
    assert (tmp_path / "out" / "embedding_map.json").is_file()

    poisoned = tmp_path / "poisoned"
    cli("poison", square_folder, "--goal", "sofa2bird", "--samples", "2", "--out", poisoned)
    of_manifest = cli("evaluate", "--data", poisoned, *models, "--json")
    assert set(json.loads(of_manifest.out)["goal"]) == {"sofa2bird"}
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
    assert "embedding with the model: " in alone.out
    several = cli(
        *("evaluate", "--data", square_folder, *models),
        *("--goal", "sheep2sofa", "--goal", "sofa2sheep", "--study", "collateral"),
    )
    assert several.code == 0
    assert "rank changes of all classes" in several.out


@pytest.mark.slow
def test_the_demo_at_small_size(tmp_path: Path) -> None:
    """`mmpoison demo` in its own process: a table, a run folder, a page with pictures."""
    import subprocess

    out = tmp_path / "run"
    command = [
        *(sys.executable, "-c", "from mmpoison.cli import main; main()", "demo"),
        *("--out", str(out), "--set", "training.epochs=1", "--set", "training.max_steps=4"),
        *("--set", "data.options.unlabelled=100", "--set", "data.options.per_class=20"),
        *("--set", "data.options.held_out=60", "--set", "attack.samples=5"),
        *("--set", "sterilize.training.max_steps=4"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for word in ("Hit@1", "Hit@10", "MinRank", "sheep2aeroplane", "run folder:", "report.html"):
        assert word in done.stdout
    for model in ("lean", "oisoned", "iltered", "terilized"):
        assert model in done.stdout
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["run"]["poisoned_pairs"] == 25
    assert metrics["run"]["training_pairs"] == 100 * 5 + 20 * 10 * 5 + 25
    assert metrics["run"]["data"]["attribution"]
    assert metrics["run"]["model"]["class_retrieval"]["original"] > 0.5
    lists = json.loads((out / "rank_lists.json").read_text())
    assert len(lists["queries"]) == 10
    for query in lists["queries"]:
        assert set(query["models"]) == {"clean_model", "poisoned", "filtered", "sterilized"}
        assert all(len(shown) == 10 for shown in query["models"].values())
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 10
    for query in lists["queries"]:
        assert query["caption"].replace("'", "&#39;") in page
    # nothing comes from elsewhere
    assert 'src="http' not in page
    # the same command again only reads the folder
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert "nothing to compute" in " ".join(again.stdout.split())
