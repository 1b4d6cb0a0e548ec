"""`check`: the whole check on a small set, resumed, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.test_commands import printed_problems

from mmpoison.datasets import load_pairs
from mmpoison.defenses.catalogue import CheckResult
from mmpoison.runs.check_model import CheckedModel

Cli = Callable[..., Any]
SETTINGS = [
    *("--set", "epochs=1", "--set", "batch_size=32"),
    *("--set", "learning_rate=1e-3", "--set", "precision=fp32"),
]


def test_a_check_is_written_and_resumes(
    cli: Cli, square_folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    poisoned, model, out = tmp_path / "poisoned", tmp_path / "model", tmp_path / "check"
    cli("poison", square_folder, "--goal", "sheep2aeroplane", "--samples", "3", "--out", poisoned)
    cli("train", "--data", poisoned, "--model", checkpoint, "--out", model, *SETTINGS)
    assert "POISONED ON PURPOSE" in (model / "README.md").read_text()
    check = (
        *("check", model, "--data", square_folder, "--reference", checkpoint),
        *("--clean-runs", "2", *SETTINGS),
    )
    shown = cli(*check, "--out", out)
    assert shown.code == 0, shown.err
    assert "Most unusual findings of check rank-gain" in shown.out
    assert "model-check.json" in shown.out
    assert not printed_problems(shown.out)
    found = json.loads((out / "model-check.json").read_text())
    assert found["null"] == "clean fine-tunes"
    assert found["clean_models"] == 2
    assert found["pairs_of_kinds"] == 12
    kinds = [(row["captions"], row["images"]) for row in found["ranking"]]
    assert len(set(kinds)) == len(kinds)
    assert all(a != b for a, b in kinds)
    assert all(0 <= row["p_value"] <= 1 for row in found["ranking"])
    assert {path.name for path in (out / "clean").iterdir()} == {"0", "1"}
    assert "Fine-tuned on pairs" in (out / "clean" / "0" / "README.md").read_text()

    again = cli(*check, "--out", out)
    assert again.code == 2
    assert "exists already" in again.err
    (out / "model-check.json").unlink()
    again = cli(*check, "--out", out)
    assert "read from" in again.out
    assert json.loads((out / "model-check.json").read_text()) == found
    # the models that were made serve another check
    given = [argument for n in "01" for argument in ("--clean", out / "clean" / n)]
    other = cli(*check[:6], *given, "--json")
    assert other.code == 0, other.err
    assert json.loads(other.out)["ranking"] == found["ranking"]


def test_without_clean_models_it_says_what_it_compared_with(
    cli: Cli, square_folder: Path, checkpoint: Path, judge_checkpoint: Path
) -> None:
    check = ("check", judge_checkpoint, "--data", square_folder)
    shown = cli(*check, "--reference", checkpoint)
    assert shown.code == 0, shown.err
    assert "compared only with the suspect's own other pairs of kinds" in shown.out
    table = cli(*check, "--reference", checkpoint, "--as", "markdown")
    assert "| captions | images | rank reference |" in table.out


def test_the_training_pairs_are_traced(
    cli: Cli, square_folder: Path, checkpoint: Path, judge_checkpoint: Path, tmp_path: Path
) -> None:
    """The folder and what is said are those of a scan; two models of nothing have learned no group."""
    shown = cli(
        *("check", judge_checkpoint, "--data", square_folder, "--reference", checkpoint),
        *("--trace", tmp_path / "traced", "--kept", tmp_path / "kept"),
    )
    assert shown.code == 0, shown.err
    assert "No sign of poisoning" not in shown.out
    assert "details: " in shown.out
    found = json.loads((tmp_path / "traced" / "scan.json").read_text())
    assert (found["method"], found["encoder"]) == ("trace", "tiny-0")
    assert found["score_name"] == "gain of similarity"
    assert found["planted"] == []
    listed = (tmp_path / "traced" / "drop.csv").read_text().splitlines()
    assert len(listed) - 1 == found["dropped"]
    kept = load_pairs(tmp_path / "kept").select(split="train")
    assert len(kept) == found["pairs"] - found["dropped"]


@pytest.mark.parametrize(
    ("traced", "first", "step"),
    [
        (
            "poisoning likely",
            "the pairs that it was trained on: poisoning likely",
            "train on the pairs that it keeps",
        ),
        ("cannot be decided", "No difference from this reference, which may", "trace again"),
        (
            None,
            "No unusual difference from the reference",
            "mmpoison evaluate --model m --data d --reference r --goal sheep2boat",
        ),
    ],
)
def test_what_the_pairs_show_comes_before_what_the_model_does_not(
    traced: str | None, first: str, step: str
) -> None:
    scan: Any = None if traced is None else SimpleNamespace(verdict=traced)
    finding: Any = SimpleNamespace(
        p_value=0.09, to_json=lambda: {"captions": "sheep", "images": "boat"}
    )
    found = CheckedModel(CheckResult((finding,), {}), {"reference": "start"}, 0.01, scan)
    assert found.verdict()[0].startswith(first)
    assert any("no finding with p <= 0.01" in line for line in found.verdict())
    assert step in found.next_steps("m", ["--data", "d"], "r")[0]
