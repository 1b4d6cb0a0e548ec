"""`mmpoison sterilize` from end to end: probes, rates, the guard, and what is left when no model is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import write_square_pairs
from tests.scan_results import write_scan_result
from tests.test_commands import printed_problems

from mmpoison.datasets import load_pairs
from mmpoison.models import load_checkpoint

Cli = Callable[..., Any]
SETTINGS = [
    *("--set", "epochs=2", "--set", "batch_size=64"),
    *("--set", "learning_rate=1e-3", "--set", "precision=fp32"),
]


@pytest.fixture(scope="module")
def many_squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares with enough clean images to hold some out: 25 val images a class."""
    folder = write_square_pairs(
        tmp_path_factory.mktemp("many") / "squares", per_class=32, unlabelled=2
    )
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    for line in lines:
        number = int(Path(line["image"]).stem)
        if line["label"]:
            line["split"] = "train" if number < 2 else "val" if number < 27 else "test"
        line["captions"] = line["captions"][:2]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_what_is_saved_is_not_called_repaired(
    cli: Cli, many_squares: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Several rates by default; the check before and after, or the command that checks, and no promise."""
    command = [
        *("sterilize", "--data", many_squares, "--model", checkpoint, "--max-utility-loss", "1"),
        *(*SETTINGS[:4], *SETTINGS[6:], "--set", "max_steps=1"),
    ]
    checked = cli(*command, "--out", tmp_path / "checked", "--reference", checkpoint)
    assert checked.code == 0, checked.err
    scans = json.loads((tmp_path / "checked" / "model-check.json").read_text())
    assert list(scans) == ["before", "after"]
    card = (tmp_path / "checked" / "README.md").read_text()
    assert "A suspect model after a repair with clean pairs" in card
    assert "utility lost on 20 held-out images" in card
    for when in scans:
        line = f"Model check {when}: No unusual difference from the reference (no finding with p <= 0.01)"
        assert line in checked.out
        assert f"- {line}" in card
    first = scans["before"]["ranking"][0]  # nothing is flagged: the strongest finding
    goal = f"--goal {first['captions']}2{first['images']} --reference {checkpoint}"
    assert "next: measure the goal that the findings suggest: mmpoison evaluate" in checked.out
    assert goal in checked.out
    curve = json.loads((tmp_path / "checked" / "sterilize-curve.json").read_text())
    assert [branch["learning_rate"] for branch in curve["branches"]] == [1e-3, 1e-4, 1e-5]
    assert [branch["keeps_utility"] for branch in curve["branches"]] == [True, None, None]
    assert "learning rate 0.0001: not needed, because a higher learning rate keeps" in checked.out
    assert "Chosen: learning rate 0.001, the highest" in " ".join(checked.out.split())

    alone = tmp_path / "alone"
    plain = cli(*command, "--out", alone, "--learning-rate", "1e-4")
    assert plain.code == 0, plain.err
    (branch,) = json.loads((alone / "sterilize-curve.json").read_text())["branches"]
    assert branch["ended"] == "All steps are done. This does not show that the poison is gone."
    assert f"learning rate 0.0001: {branch['ended']}" in plain.out
    assert branch["ended"] in (alone / "README.md").read_text()
    assert f": mmpoison check {alone} --data {many_squares} --reference MODEL\n" in plain.out
    assert not printed_problems(checked.out + plain.out)
    for said in (checked.out, plain.out, card):
        assert "repaired" not in said


def test_a_manifest_asks_for_no_test_part(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    poisoned = tmp_path / "poisoned"
    cli("poison", square_folder, "--goal", "sheep2sofa", "--samples", "2", "--out", poisoned)
    lines = [json.loads(line) for line in (poisoned / "captions.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["split"] != "test"]
    (poisoned / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    result = cli(
        *("sterilize", "--data", poisoned, "--model", checkpoint, "--out", tmp_path / "out"),
        *(*SETTINGS, "--set", "max_steps=1"),
    )
    assert result.code == 0, result.err
    # 12 clean images: all are trained on, and it says so
    assert "no utility guard and no curve: holding out 0.2 of 12 clean images gives 2" in result.out


def test_what_a_scan_found_is_unlearned(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Dropped pairs are not trained on; those of the likely group are pushed apart, the other group's are left out."""
    listed = list(load_pairs(square_folder).select(split="train"))[:6]
    rows = [
        {"pair": f"{pair.image}#0", "caption": pair.caption, "score": 1.0, "drop": nr < 5, "group": nr % 2}
        for nr, pair in enumerate(listed)
    ]  # fmt: skip
    about: dict[str, Any] = {"captions_about": ["a", "sheep"], "images_about": ["sofa"]}
    groups = [about, {"grade": "look at this group"}]
    scan = write_scan_result(tmp_path / "scan", rows, groups=groups)
    command = [
        *("sterilize", "--data", square_folder, "--model", checkpoint, "--held-out", "0"),
        *(*SETTINGS, "--set", "max_steps=2", "--unlearn", scan),
    ]
    out = tmp_path / "out"
    done = cli(*command, "--split", "train", "--out", out)
    assert done.code == 0, done.err
    card = (out / "README.md").read_text()
    assert "unlearned: 3 pairs of groups called poisoning" in card
    again = f"mmpoison evaluate --data {square_folder} --model {out} --goal sheep2sofa"
    assert f"next: measure the goal that the findings suggest: {again}" in done.out
    assert load_checkpoint(out).config["mmpoison"]["training"]["objective"] == "unlearn"

    other = cli(*command, "--out", tmp_path / "other")
    assert other.code == 2
    assert "5 dropped pairs not among the pairs" in other.err
    assert "--split train" in other.err
    par = cli(*command, "--split", "train", "--method", "par", "--out", tmp_path / "other")
    assert (par.code, "only clean-finetune can unlearn pairs" in par.err) == (2, True)
    weak = write_scan_result(tmp_path / "weak", rows, groups=[{"grade": "as in clean data"}] * 2)
    nothing = cli(*command[:-1], weak, "--split", "train", "--out", tmp_path / "other")
    assert (nothing.code, "there is nothing to unlearn" in nothing.err) == (2, True)
