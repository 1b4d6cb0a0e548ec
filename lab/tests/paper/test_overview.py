"""The paper's numbers and ours on one page: each number and paired difference again, from metrics.json by SciPy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.reporting.table import Link, cell_texts
from mmpoison_lab.paper import PAPER, Page, Results, render_paper
from mmpoison_lab.paper.overview import DIFFERENCES, OWN_ALONE

MakeRun = Callable[..., Path]


def overview(runs: Sequence[Path]) -> Page:
    return render_paper("overview", Results.read(runs))


def sentences(page: Page) -> dict[str, str]:
    """The difference in words by the first of its words."""
    said = [str(row[1]) for row in page.tables[0].rows]
    return {one.partition(": ")[0]: one for one in said}


def of_runs(runs: Sequence[Path], *keys: str) -> list[float]:
    """A number of each run, by its place in metrics.json."""
    found = []
    for run in runs:
        value: Any = json.loads((run / "metrics.json").read_text())
        for key in keys:
            value = value[key]
        found.append(value)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    return float(low), float(high)


def difference(number: Sequence[float], less: Sequence[float], digits: int = 3) -> str:
    """The mean of paired differences as the page writes it."""
    low, high = stats.ttest_rel(number, less).confidence_interval()
    mean = np.subtract(number, less).mean()
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] ({len(number)} seeds)"


GOAL = ("goal", "sheep2aeroplane")


def test_a_number_stands_next_to_the_papers(scenes: list[Path]) -> None:
    table = overview(scenes).tables[1]
    rows = [cell_texts(row, table.columns) for row in table.rows]
    own = "openmoji, sheep2aeroplane"
    for name, on, line, keys, printed in (
        ("Table 3", own, "ours (poisoned model), Hit@10", (*GOAL, "poisoned", "hit@10"), "0.936"),
        ("Table 1", "openmoji", "IR, Clean", ("utility", "clean_model", "image_retrieval", "hit@10"), "0.971"),
        ("Table 11", "openmoji", "images", ("drift", "image"), "0.094"),
    ):  # fmt: skip
        values = of_runs(scenes, *keys)
        low, high = interval(values)
        ours = [f"{np.mean(values):.3f}", f"[{low:.3f}, {high:.3f}]"]
        assert [name, on, line, "3", printed, *ours] in rows
    # no line of the paper alone, and none of ours alone
    assert all(row[1].startswith("openmoji") for row in rows)
    assert not any("Hit@5" in row[2] for row in rows)


def test_a_difference_is_paired_by_seed(scenes: list[Path]) -> None:
    said = sentences(overview(scenes))
    poisoned, clean = (of_runs(scenes, *GOAL, m, "hit@10") for m in ("poisoned", "clean_model"))
    assert said["Attack II"] == (
        "Attack II: Hit@10 of the poisoned model, minus the clean model's: openmoji, sheep2aeroplane "
        f"{difference(poisoned, clean)}; the paper: Flickr-PASCAL +0.736, COCO +0.400."
    )
    after, before = (
        of_runs(scenes, "utility", m, "image_retrieval", "hit@10")
        for m in ("poisoned", "clean_model")
    )
    found = said["Utility, Hit@10 of image retrieval"]
    assert (
        f": openmoji {difference(after, before)}; the paper: Flickr-PASCAL -0.003, COCO +0.030."
        in found
    )
    text, image = (of_runs(scenes, "drift", kind) for kind in ("text", "image"))
    assert f": openmoji {difference(text, image, 4)}; " in said["Drift after attack II"]
    texts, images = (
        np.subtract(drift, of_runs(scenes, "study", "order_drift", kind))
        for drift, kind in ((text, "text"), (image, "image"))
    )
    found = said["Drift that attack II adds to a change of order"]
    assert (
        f": openmoji {difference(list(texts), list(images), 4)}; the paper prints no number."
        in found
    )


def sizes(make_run: MakeRun, recipe: str) -> list[Path]:
    """Runs on a quarter, a half and all of the data, on two seeds."""
    return [
        make_run(
            f"{recipe}/{share}-{seed}",
            seed=seed,
            hit=share * (0.8 + seed / 7),
            run={"recipe": recipe, "training_pairs": round(share * 25125)},
            settings={"data": {"name": "openmoji", "options": {"train_share": share}}},
        )
        for share in (1.0, 0.25, 0.5)
        for seed in range(2)
    ]


def test_sizes_are_those_of_its_own_recipe(make_run: MakeRun) -> None:
    """Runs of other recipes may differ in more than the size of their data."""
    of_figure, others = (sizes(make_run, name) for name in ("figure-5a-openmoji", "mine"))
    name = "Attack II on all training pairs"
    most, least = (of_runs(of_figure[n : n + 2], *GOAL, "poisoned", "hit@10") for n in (0, 2))
    wanted = f": openmoji, poisoned {difference(most, least)}; the paper prints no number."
    assert wanted in sentences(overview([*of_figure, *others]))[name]
    assert name not in sentences(overview(others))


def test_every_difference_can_be_said(every_run: Path) -> None:
    said = overview([every_run]).tables[0].rows
    wanted = [one for one in DIFFERENCES if one.entry not in OWN_ALONE]
    for (name, sentence), one in zip(said, wanted, strict=True):
        assert isinstance(name, Link)
        assert name.text.lower().replace(" ", "-") == one.entry
        assert str(sentence).startswith(f"{one.words}: ")
        assert not re.search(r"\b(holds|undecided|nan)\b|  ", str(sentence))


def test_a_table_is_made_of_the_runs_of_its_own_recipes(make_run: MakeRun) -> None:
    runs = [
        make_run(f"{recipe}-{seed}", seed=seed, hit=hit, run={"recipe": f"{recipe}-openmoji"})
        for recipe, hit in (("figure-2", 0.3), ("table-3", 0.9))
        for seed in range(2)
    ]
    rows = [
        row
        for row in overview(runs).tables[1].rows
        if row[0] == "Table 3" and "ours" in str(row[2])
    ]
    ((*_, n, printed, ours, _),) = rows
    assert (n, printed) == (2, 0.936)
    assert ours.measured.mean == pytest.approx(0.9, abs=0.05)  # type: ignore[union-attr]


def test_the_command(scenes: list[Path], tmp_path: Path) -> None:
    call = ["report", *map(str, scenes), "--view", "overview", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, call, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert {file.name for file in tmp_path.iterdir()} == {
        f"overview.{e}" for e in ("md", "html", "json")
    }
    assert done.output.index("The main differences") < done.output.index(
        "The paper's numbers and ours"
    )
    assert max(len(line) for line in done.output.splitlines() if "/" not in line) <= 80
    # each number leads to its runs
    text = (tmp_path / "overview.md").read_text()
    assert (
        "| Table 3 | openmoji, sheep2aeroplane | ours (poisoned model), Hit@10 | 3 | 0.936 | [0."
        in text
    )
    assert list(PAPER)[-1] == "overview"
