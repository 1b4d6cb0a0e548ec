"""The section with the paper's tables on the page of some runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmpoison.cli.app import app
from mmpoison.paper.report_section import paper_section

MakeRun = Callable[..., Path]


def test_one_run_has_the_tables_and_the_curves(every_run: Path) -> None:
    html = paper_section([every_run / "defended" / "1e-05"])
    assert html.index("Table 3: ") < html.index("Figure 7: ") < html.index("Table 16: ")
    assert "<h3>Table 3: " in html
    assert "<summary>Table 16: " in html
    assert "The paper's are of other data" in html.replace("&#39;", "'")
    assert "data:image/svg+xml;base64," in html
    assert "Figure 8" not in html
    assert "href" not in html
    # headers are words, not what the tables are made of
    assert ">measured on<" in html
    assert "{" not in html


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
