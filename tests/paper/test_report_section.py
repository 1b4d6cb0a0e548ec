"""The section with the paper's tables on the page of some runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.paper.write import paper_section

MakeRun = Callable[..., Path]


def folded(html: str) -> list[str]:
    """The numbers of the folded tables of the paper."""
    return re.findall(r"<summary>Table (\d+)", html)


def test_one_run_has_its_attack_and_the_curves(scenes: list[Path]) -> None:
    html = paper_section(scenes[:1])
    assert html.index("<h3>Table 3: ") < html.index("<h3>Figure 3: ")
    # it would fill one line of each of them, with the paper's numbers of other data around it
    assert folded(html) == []
    assert "The paper's are of other data" in html.replace("&#39;", "'")
    assert "data:image/svg+xml;base64," in html
    assert "Figure 8" not in html
    assert "href" not in html
    # headers are words, not what the tables are made of
    assert ">measured on<" in html
    assert "{" not in html


def test_studies_are_shown_where_there_is_something_to_compare(make_run: MakeRun) -> None:
    """Runs that differ in what is studied, or one run on the paper's data; seeds alone are no study."""
    seeds = [make_run(f"s{seed}", seed=seed, data="openmoji") for seed in range(3)]
    assert "<h3>Table 3: " in paper_section(seeds)
    assert folded(paper_section(seeds)) == []
    frozen = [
        make_run(part, data="openmoji", settings={"training": {"epochs": 1, "trainable": part}})
        for part in ("image", "text")
    ]
    both = folded(paper_section([*seeds, *frozen]))
    assert "5" in both  # attack II with frozen encoders
    one = folded(paper_section([make_run("paper", data="flickr-pascal")]))
    assert "5" in one
    assert folded(paper_section([make_run("own", data="my-pairs")])) == []


def test_interval_and_reference_have_lines_of_their_own(make_run: MakeRun) -> None:
    html = paper_section([make_run(f"s{seed}", seed=seed, data="openmoji") for seed in range(3)])
    cell = re.search(r"<td>(0\.\d+)((?: <small>[^<]+</small>)+)</td>", html)
    assert cell is not None
    interval, reference = re.findall(r"<small>([^<]+)</small>", cell[2])
    assert re.fullmatch(r"\[\d\.\d+, \d\.\d+\]", interval)
    assert re.fullmatch(r"\S \d\.\d+", reference)


def test_several_runs_have_the_figures_over_runs(make_run: MakeRun) -> None:
    runs = [make_run(f"s{seed}", seed=seed, data="my-pairs") for seed in range(2)]
    html = paper_section(runs)
    assert "<h3>Figure 1: " in html
    assert "with the numbers of these runs" in html
    assert "of other data" not in html


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_what_cannot_be_read_is_one_line(make_run: MakeRun, content: str | None) -> None:
    run = make_run("<b>run")
    file = run / "metrics.json"
    file.unlink() if content is None else file.write_text(content)
    html = paper_section([run])
    assert html.count('<p class="note">') == 1
    assert "metrics.json" in html
    assert "<b>" not in html


def test_nothing_for_the_paper_is_nothing(make_run: MakeRun) -> None:
    run = make_run("run", attack="another", metrics={"goal": {}, "utility": {}, "drift": {}})
    assert paper_section([run]).strip() == ""


def test_the_report_has_it(make_run: MakeRun, tmp_path: Path) -> None:
    run, page = make_run("run"), tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(run), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "Comparison with the paper" in page.read_text()
