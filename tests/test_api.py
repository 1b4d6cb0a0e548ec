"""The front door for Python: every function with names, paths and objects, its result, and what it shows."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.conftest import squares_recipe

import mmpoison
from mmpoison.api import progress as api_progress
from mmpoison.api.progress import console_progress, shown
from mmpoison.base.progress import SilentProgress
from mmpoison.defenses import RelevanceFilter
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset
from mmpoison.runs.recipe import parse_recipe

GOAL = "sheep2aeroplane"
BRIEF: dict[str, Any] = {"epochs": 1, "batch_size": 32, "precision": "fp32", "max_steps": 2}


@pytest.fixture(scope="module")
def poisoned(squares: PairDataset) -> PairDataset:
    return mmpoison.poison(squares, GOAL, samples=2)


# -- data ------------------------------------------------------------------------------------------


def test_load_takes_a_path_or_a_name(square_folder: Path) -> None:
    by_text, by_path = mmpoison.load(str(square_folder)), mmpoison.load(square_folder)
    assert by_text.fingerprint == by_path.fingerprint
    with pytest.raises(InputError, match="no such folder or file"):
        # a registered name, but a `Path` is a path
        mmpoison.load(Path("openmoji"))


def test_poison_by_name_is_poison_by_object(squares: PairDataset, poisoned: PairDataset) -> None:
    attack = mmpoison.SingleTargetLabel(goal=GOAL, samples=2)
    assert mmpoison.poison(squares, attack=attack).fingerprint == poisoned.fingerprint
    assert int(poisoned.poisoned.sum()) == len(poisoned.manifest.pairs) > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True, None, 1 << 63])
def test_a_wrong_seed_is_refused_at_once(seed: Any) -> None:
    for call in (
        lambda: mmpoison.load("no-such-data", seed=seed),
        lambda: mmpoison.scan("no-such-data", out="o", seed=seed),
        lambda: mmpoison.poison("no-such-data", seed=seed),
        lambda: mmpoison.train("no-such-model", "no-such-data", seed=seed),
        lambda: mmpoison.evaluate("no-such-model", "no-such-data", seed=seed),
        lambda: mmpoison.check("no-such-model", "no-such-data", seed=seed),
        lambda: mmpoison.sterilize("no-such-model", "no-such-data", seed=seed),
        # its default is the recipe's own
        lambda: mmpoison.run("no-such-recipe", seed=-1 if seed is None else seed),
    ):
        with pytest.raises(InputError, match=r"^seed .* is not a whole number from 0"):
            call()


@pytest.mark.parametrize("value", ["", None, 5, ["a"]])
def test_what_is_no_name_and_no_path_is_refused_at_once(value: Any, squares: PairDataset) -> None:
    calls: dict[str, Callable[[], object]] = {
        "data": lambda: mmpoison.load(value),
        "path": lambda: mmpoison.load_pairs(value),
        "source": lambda: mmpoison.scan(value, out="o"),
        "out": lambda: mmpoison.scan("no-such-data", out=value),
        "method": lambda: mmpoison.scan("no-such-data", out="o", method=value),
        "pairs": lambda: mmpoison.train("no-such-model", value),
        "model": lambda: mmpoison.load_encoder(value),
        "recipe": lambda: mmpoison.run(value),
    }
    for name, call in calls.items():
        with pytest.raises(InputError, match=f"^{name} is .*: give a name, a path"):
            call()
    for call in (lambda: mmpoison.save_pairs(squares, value), lambda: mmpoison.keep_filter(value)):
        with pytest.raises(InputError, match="give a name, a path"):
            call()
    with pytest.raises(InputError, match="give a new folder with --out"):
        mmpoison.scan("no-such-data", out=Path())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"goal": GOAL, "sample": 2}, "did you mean 'samples'"),
        (
            {"goal": GOAL, "attack": mmpoison.SingleTargetLabel(goal=GOAL, samples=2)},
            "the attack is an object: set its goal",
        ),
    ],
)
def test_poison_refuses(squares: PairDataset, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        mmpoison.poison(squares, **arguments)


# -- models ----------------------------------------------------------------------------------------


def test_train_evaluate_scan(
    poisoned: PairDataset, checkpoint: Path, judge_checkpoint: Path, tmp_path: Path
) -> None:
    start = mmpoison.load_encoder(checkpoint)
    before = start.digest()
    trained = mmpoison.train(start, poisoned, **BRIEF)
    assert start.digest() == before
    assert repr(trained).startswith("TrainingResult(")
    assert "pixels" in repr(trained.encoder)
    # a path in, a folder out: the same weights
    out = tmp_path / "model"
    mmpoison.train(str(checkpoint), poisoned, out=out, **BRIEF)
    assert mmpoison.load_encoder(out).digest() == trained.encoder.digest()
    assert not out.with_name("model.training").exists()
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        mmpoison.train(start, poisoned, epoch=2)
    with pytest.raises(InputError, match="no pairs to train on"):
        mmpoison.train(start, poisoned.select(split="test"))

    measured = mmpoison.evaluate(
        trained.encoder, poisoned, reference=checkpoint, out=tmp_path / "measured"
    )
    assert {"clean_model", "poisoned"} <= set(measured.metrics.goal[GOAL])
    written = json.loads((tmp_path / "measured" / "metrics.json").read_text())
    assert written == measured.metrics.to_json()
    assert f"{GOAL} poisoned: Hit@10" in repr(measured)
    assert "<caption>sheep → aeroplane</caption>" in measured._repr_html_()
    assert measured._repr_html_().count("<table") == measured._repr_html_().count("</table>") > 0

    table = measured.to_pandas()
    assert list(table["model"]) == ["Clean", "Model", "random captions"]
    row = table.set_index("model").loc["Model"]
    assert row["Hit@10"] == measured.metrics.row(GOAL, "poisoned").hit_10
    assert row["MinRank"] == measured.metrics.row(GOAL, "poisoned").min_rank
    assert row["IR Hit@10"] == measured.metrics.utility["poisoned"].image_retrieval.hit_10
    assert math.isnan(table.set_index("model").loc["random captions", "TR Hit@10"])
    heights = [[bar.get_height() for bar in axis.patches] for axis in measured.plot().axes]
    assert heights[0] == list(table["Hit@10"])
    assert heights[1] == list(table["IR Hit@10"].dropna())

    done = mmpoison.scan(
        poisoned,
        encoder=judge_checkpoint,
        method="relevance-filter",
        lose=0.2,
        out=tmp_path / "scan",
        kept=tmp_path / "kept",
    )
    assert done.known is not None
    assert len(mmpoison.load(tmp_path / "kept")) == len(poisoned) - done.dropped < len(poisoned)
    assert done.cut is not None
    judge = mmpoison.load_encoder(judge_checkpoint)
    method = RelevanceFilter(threshold=float(done.cut.value))
    again = mmpoison.scan(poisoned, encoder=judge, method=method, out=tmp_path / "again")
    assert again.dropped == done.dropped
    with pytest.raises(InputError, match="set its parameters on the object"):
        mmpoison.scan(poisoned, method=method, lose=0.1, out=tmp_path / "no")


def test_epochs_cannot_be_studied_afterwards(squares: PairDataset, checkpoint: Path) -> None:
    with pytest.raises(InputError, match="during training"):
        mmpoison.evaluate(checkpoint, squares, goal=GOAL, study="epochs")


def test_sterilize_and_check(squares: PairDataset, checkpoint: Path, tmp_path: Path) -> None:
    done = mmpoison.sterilize(checkpoint, squares, held_out=0, **BRIEF)
    assert done.result.steps > 0
    assert not done.out.exists()
    written = mmpoison.sterilize(checkpoint, squares, held_out=0, out=tmp_path / "new", **BRIEF)
    digest = mmpoison.load_encoder(tmp_path / "new").digest()
    assert digest == written.result.encoder.digest() == done.result.encoder.digest()

    found = mmpoison.check(
        done.result.encoder, squares, reference=checkpoint, clean_runs=2, **BRIEF
    )
    assert found.result.facts["clean_models"] == 2
    assert repr(found).startswith("CheckedModel(")
    assert repr(done).startswith("Sterilized(")
    with pytest.raises(InputError, match="which says how many"):
        mmpoison.check(checkpoint, squares, reference=checkpoint, epochs=2)


def test_run_a_recipe(square_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(squares_recipe(square_folder, checkpoint), "test")
    result = mmpoison.run(recipe, out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == result.metrics.to_json()
    assert result.page.is_file()
    assert repr(result).startswith(f"RunResult({str(tmp_path / 'run')!r}; {GOAL} ")
    assert result.model("clean_model").digest() != result.model().digest()
    with pytest.raises(InputError, match="no model 'filtered'; it has clean_model, poisoned"):
        result.model("filtered")
    with pytest.raises(InputError, match="a Recipe object takes no changes"):
        mmpoison.run(recipe, seed=1)
    with pytest.raises(InputError, match="is a sweep"):
        mmpoison.run("table-3-openmoji")


# -- progress --------------------------------------------------------------------------------------


def _two_steps(reporter: Any) -> None:
    update = reporter.progress("embedding\x1b[31m\x1b]0;x\x07[/no]")
    update(1, 2)
    for _ in range(2):
        update(2, 2)


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in (True, False):
        with shown(wanted) as reporter:
            assert isinstance(reporter, SilentProgress)
            _two_steps(reporter)
    assert capsys.readouterr() == ("", "")


def test_a_monitor_is_used_as_it_is() -> None:
    mine = SilentProgress()
    with shown(mine) as reporter:
        assert reporter is mine


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_shows_bars_or_lines(terminal: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=200, color_system=None)
    with console_progress(console, "loading") as reporter:
        _two_steps(reporter)
    if terminal:
        # what cannot be counted is seen too
        assert re.search(
            "loading +━.*embedding\\[/no\\] +━.* 1/2 .*\\[/no\\]: 2/2 ", screen.getvalue(), re.S
        )
        assert not re.search("\x1b\\[31m|\x1b]0;|\x07", screen.getvalue())
    else:
        assert screen.getvalue() == "embedding[/no]: 2\n"


def test_a_notebook_without_widgets_shows_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr("rich.jupyter.display", lambda _, text: texts.append(text))
    notebook = Console(force_jupyter=True)
    monkeypatch.setattr(api_progress, "Console", lambda stderr: notebook)
    monkeypatch.setattr(api_progress, "find_spec", lambda name: None)
    with shown(True) as reporter:
        _two_steps(reporter)
    assert texts == ["embedding[/no]: 2\n"]


# -- scripts ---------------------------------------------------------------------------------------


def test_a_script_without_a_main_guard_may_draw_scenes(tmp_path: Path) -> None:
    """Scenes are drawn by worker processes, which must not run the script of the user again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import mmpoison\n"
        "pairs = mmpoison.load('openmoji', unlabelled=2, held_out=2, per_class=2, size=32)\n"
        "print(len(pairs.images))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.stdout == "44\n"
