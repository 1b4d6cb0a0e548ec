"""`make reproduce`: which commands it gives."""

from __future__ import annotations

import base64
import importlib
import io
import json
import shutil
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from tests.reporting.conftest import synthetic_run

from mmpoison.cli.app import command_of
from mmpoison.runs.recipe_files import shipped_recipes

FILE = Path(__file__).parents[1] / "docs/tools/reproduce.py"


@pytest.fixture(scope="module")
def reproduce() -> Iterator[ModuleType]:
    if not FILE.is_file():
        pytest.skip("the benchmarks are not in a built package")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FILE.parent))  # as it is for a script
        patch.syspath_prepend(str(FILE.parents[2] / "benchmarks"))
        yield importlib.import_module("reproduce")


def test_everything_is_run_on_the_small_data(reproduce: ModuleType) -> None:
    names = reproduce.recipes([], photos=True)
    twins = {
        n
        for n in shipped_recipes()
        if n.startswith(("table", "figure")) and n.endswith(("-openmoji", "-flickr8k"))
    }
    assert set(names) == twins
    assert names[:2] == ["table-1-openmoji", "table-2-openmoji"]
    scenes = reproduce.recipes([], photos=False)
    assert set(scenes) == {n for n in twins if n.endswith("-openmoji")}
    assert reproduce.recipes(["figure-5b"], photos=True) == [
        "figure-5b-openmoji",
        "figure-5b-flickr8k",
    ]


def test_the_commands(reproduce: ModuleType, tmp_path: Path) -> None:
    command = reproduce.run_command("table-6-flickr8k", tmp_path, Path("photos"))
    assert command[:4] == ["run", "table-6", "--on", "flickr8k"]
    assert "transfer.data.root=photos/rsicd" in command
    for name in ("table-1-openmoji", "table-11-openmoji", "table-1-flickr8k"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}")
    (tmp_path / "table-12-openmoji").mkdir()  # begun, and nothing finished
    names = reproduce.recipes(["table-1"], photos=True)
    one, eleven = reproduce.report_commands(names, tmp_path, tmp_path / "out")
    assert one[1:5] == [
        str(tmp_path / "table-1-openmoji"),
        str(tmp_path / "table-1-flickr8k"),
        "--view",
        "table-1",
    ]
    assert eleven[1:4] == [str(tmp_path / "table-11-openmoji"), "--view", "table-11"]
    for each in (command, one, eleven):
        parse(each)


def parse(command: list[str]) -> None:
    """As the command line of mmpoison would, or that of a script; an unknown option is an error."""
    if command[0].endswith(".py"):
        script = typer.Typer()
        script.command()(importlib.import_module(Path(command[0]).stem).main)
        typer.main.get_command(script).make_context("script", command[1:])
    else:
        # a copy: a command keeps the first help option that it makes
        copy(command_of(command[0])).make_context(command[0], command[1:])


def test_no_photo_is_published(reproduce: ModuleType, tmp_path: Path) -> None:
    names = ["figure-10-openmoji", "figure-10-flickr8k", "table-3-openmoji", "table-3-flickr8k"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text("{}")
    commands = reproduce.report_commands(names, tmp_path, tmp_path / "out")
    by_entry = {c[c.index("--view") + 1]: c for c in commands}
    assert set(by_entry) == {"table-3", "figure-10", "rank-lists"}
    for entry in ("figure-10", "rank-lists"):
        assert not any("rsicd" in part for part in by_entry[entry])


def test_the_page_says_what_each_command_took(reproduce: ModuleType, tmp_path: Path) -> None:
    took = {"runs": 5, "trainings": 7, "training_s": 60.0, "minutes": 12.345}
    took["processor_minutes"] = 20.0
    (tmp_path / "times.json").write_text(json.dumps({"table-3-openmoji": took}))
    (tmp_path / "table-3.md").touch()
    text = reproduce.index_page(["table-2-openmoji", "table-3-openmoji"], tmp_path, tmp_path)
    assert "| `table-3 --on openmoji` | [" in text
    assert "`runs.parquet` of the release" in text
    assert "(table-3.md) | 5 | 7 | 12.3 | 20.0 | 0 | 12 |" in text
    assert text.endswith("In total 0.2 hours.\n")
    for seed in range(6):  # one was there when the command that noted its time began
        (folder := tmp_path / "table-3-openmoji" / f"seed{seed}").mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
    text = reproduce.index_page(["table-3-openmoji"], tmp_path, tmp_path)
    assert "(table-3.md) | 5 of 6 | 7 |" in text
    assert "table-2" not in text
    assert "In total 0.2 hours, not counting the time before interruptions" in text


def test_the_overview_is_made_of_the_published_numbers(
    reproduce: ModuleType, tmp_path: Path
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    for seed, hit in enumerate((0.8, 0.9)):
        facts = {"recipe": "table-11-openmoji"}
        synthetic_run(runs / f"table-11-openmoji/seed{seed}", seed=seed, hit=hit, run=facts)
    reproduce.main(runs=runs, out=out, pages=True)
    text = (out / "overview.md").read_text()
    assert text.startswith("---\nhide: [navigation, toc]\n---\n\n# The paper's numbers and ours\n")
    # a name leads to a page that is there
    assert "| [Table 11](table-11.md) | Drift after attack II: that of texts, minus" in text
    assert "| [Table 11](table-11.md) | openmoji | texts |" in text
    assert "| Table 3 | openmoji, sheep2aeroplane | ours (poisoned model), " in text
    assert "(overview.md)" in (out / "index.md").read_text()


def test_time_without_what_others_trained(
    reproduce: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce.os, "cpu_count", lambda: 2)
    took = {"minutes": 3.0, "training_s": 120.0}
    assert reproduce.alone(took, {"training_s": 120.0}) == pytest.approx(3.0)
    assert reproduce.alone(took, {"training_s": 360.0}) == pytest.approx(5.0)


def test_pages_are_replaced_whole(reproduce: ModuleType, tmp_path: Path) -> None:
    made, out = tmp_path / "made", tmp_path / "out"
    made.mkdir()
    out.mkdir()
    beyond = {f"{reproduce.MORE[0].name}.md"}  # not made now, so it stays
    for file in (made / "table-1.md", made / "table-1.html", out / "table-9.md", out / min(beyond)):
        file.write_text("text")
    (tmp_path / "runs.parquet").write_bytes(b"small")
    reproduce.publish(made, tmp_path, out)
    assert {file.name for file in out.iterdir()} == {"table-1.md", "runs.parquet"} | beyond
    assert (out / "table-1.md").read_text().endswith("---\n\ntext")
    (tmp_path / "runs.parquet").write_bytes(bytes(reproduce.LARGEST + 1))
    reproduce.publish(made, tmp_path, out)
    assert {file.name for file in out.iterdir()} == {"table-1.md"} | beyond


def test_figures_are_written_shorter(reproduce: ModuleType) -> None:
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(picture, "PNG")
    png = base64.b64encode(picture.getvalue()).decode()
    svg = f'<g transform="translate(1.234567 20) scale(0.015625)">\n  <image href="data:image/png;base64,{png}"/>'
    short = reproduce.shorter(svg)
    assert short.startswith('<g transform="translate(1.23 20) scale(0.015625)">\n<image href="')
    with Image.open(io.BytesIO(base64.b64decode(short.split("jpeg;base64,")[1][:-3]))) as found:
        assert found.size == (64, 64)
    assert len(short) < len(svg)


def test_of_several_settings_what_stands_side_by_side(
    reproduce: ModuleType, tmp_path: Path
) -> None:
    more_results = importlib.import_module("more_results")
    study = {"query_length": {"sheep2aeroplane": {"poisoned": {"1": {"hit@1": 0.2, "words": 9.0}}}}}
    one = synthetic_run(tmp_path / "II", metrics={"study": study})
    alone = more_results.short_tables([one])
    assert any(table.of_models for table in alone)
    both = more_results.short_tables(
        [one, synthetic_run(tmp_path / "I", attack="single-target-image")]
    )
    assert {table.of_all for table in both} == {True, False}
    assert not any(table.of_models or table.of_drift for table in both)
    (said,) = (table.title for table in both if not table.of_all)
    assert said.startswith(
        "synthetic, sheep2aeroplane, mode add, 125 poisoned pairs; sheep2aeroplane: "
    )


def test_pages_beyond_the_paper(reproduce: ModuleType, tmp_path: Path) -> None:
    more = {each.name: each for each in reproduce.MORE}
    for each in more.values():
        for command in reproduce.commands(each, tmp_path, Path("photos")):
            assert any(part.startswith("photos") for part in command) == each.photos
            parse(command[2:] if command[0] == "-m" else command)
    suspected = more["suspected-goals-openmoji"]
    (tmp_path / suspected.name).mkdir()
    assert not reproduce.is_complete(suspected, tmp_path)
    found = {"attacks": {"single-target-label/add": {"goals": 24, "first": 0.5}}}
    for name in suspected.commands:
        (tmp_path / suspected.name / f"{name}.json").write_text(json.dumps(found))
    out = tmp_path / "out"
    out.mkdir()
    (out / "false-alarms.md").touch()
    assert reproduce.more_pages(tmp_path, tmp_path, out) == [
        "- [Suspected goals: OpenMoji scenes](suspected-goals-openmoji.md)",
        "- [False alarms of suspicious-groups on clean sets](false-alarms.md), from an earlier run",
    ]
    text = (tmp_path / "suspected-goals-openmoji.md").read_text()
    assert "| single-target-label/add | 24 | 0.5000 |" in text
    assert "python benchmarks/suspected_goals.py openmoji" in text
    assert str(tmp_path) not in text


def test_pages_beyond_the_paper_alone_leave_those_of_the_paper(
    reproduce: ModuleType, tmp_path: Path
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    out.mkdir()
    (out / "table-1.md").write_text("of the paper")
    (out / "false-alarms.md").write_text("earlier")
    (out / "index.md").write_text(f"# All\n{reproduce.BEYOND}- [Another](other.md), 3.0 minutes\n")
    synthetic_run(runs / "table-3-openmoji" / "seed5")
    synthetic_run(runs / "studies-openmoji" / "II")
    reproduce.write_runs(["table-3-openmoji", "studies-openmoji"], runs)
    (runs / "runs.parquet").rename(out / "runs.parquet")
    shutil.rmtree(runs)
    synthetic_run(runs / "studies-openmoji/II")
    synthetic_run(runs / "studies-openmoji/I", attack="single-target-image")
    synthetic_run(runs / "defences-openmoji/II", seed=1)  # of two commands
    reproduce.main(runs=runs, out=out, pages=True)
    assert (out / "table-1.md").read_text() == "of the paper"
    assert (out / "false-alarms.md").read_text() == "earlier"
    assert "# Queries, neighbours and classes" in (out / "studies-openmoji.md").read_text()
    assert (out / "index.md").read_text().splitlines() == [
        "# All",
        "",
        "## Beyond the paper",
        "",
        "- [Queries, neighbours and classes: OpenMoji scenes](studies-openmoji.md)",
        "- [False alarms of suspicious-groups on clean sets](false-alarms.md), from an earlier run",
    ]
    published = set(pq.read_table(out / "runs.parquet").column("run").to_pylist())
    assert published == {"table-3-openmoji/seed5", "studies-openmoji/II", "studies-openmoji/I"}
