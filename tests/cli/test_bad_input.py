"""Bad input: exit code 2, one line on standard error, nothing half-written."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Snapshot = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def work(
    tmp_path: Path, own_square_folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder to work in: `squares`, `model`, and `full`, which is occupied."""
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMPOISON_CACHE", str(tmp_path / "cache"))
    assert own_square_folder == tmp_path / "squares"
    return tmp_path


def broken_line(work: Path) -> None:
    file = work / "squares" / "captions.jsonl"
    lines = file.read_text().splitlines()
    lines[6] = lines[6][:30]
    file.write_text("\n".join(lines) + "\n")


def missing_image(work: Path) -> None:
    (work / "squares" / "sheep" / "03.png").unlink()


def cut_image(work: Path) -> None:
    path = work / "squares" / "sheep" / "03.png"
    path.write_bytes(path.read_bytes()[:300])


def cut_images(work: Path) -> None:
    for path in (work / "squares").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:300])


def strip_image(work: Path) -> None:
    """A header alone: 99,000,000 pixels wide and one high."""
    header = struct.pack(">IIBBBBB", 99_000_000, 1, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    (work / "squares" / "sheep" / "03.png").write_bytes(content)


def no_config(work: Path) -> None:
    (work / "model" / "open_clip_config.json").unlink()


def cut_weights(work: Path) -> None:
    path = work / "model" / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])


def unlabelled(work: Path) -> None:
    file = work / "squares" / "captions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**line, "label": None}) + "\n" for line in lines))


def recipe_file(text: str) -> Callable[[Path], None]:
    def write(work: Path) -> None:
        (work / "recipe.yaml").write_text(text)

    return write


def recipe_and_cut_image(work: Path) -> None:
    recipe_file(RECIPE)(work)
    cut_image(work)


POISON = ["poison", "squares", "--goal", "sheep2aeroplane", "--samples", "2", "--out", "out"]
TRAIN = ["train", "--data", "squares", "--model", "model", "--out", "out", "--set", "epochs=1"]
FILTER = ["filter", "--data", "squares", "--encoder", "model", "--out", "out"]
EVALUATE = ["evaluate", "--data", "squares", "--model", "model", "--goal", "sheep2aeroplane"]
STERILIZE = ["sterilize", *TRAIN[1:]]
RECIPE = """
name: squares
data: {name: squares}
model: {name: model}
attack: {name: single-target-label, goal: sheep2aeroplane, samples: 2}
training: {epochs: 1}
"""


def change(command: list[str], *changes: str) -> list[str]:
    """A command with `option value` pairs replaced or added; `-option` takes one out."""
    changed = list(command)
    for option, value in zip(changes[::2], changes[1::2], strict=True):
        if option in changed:
            changed[changed.index(option) + 1] = value
        else:
            changed += [option, value]
    return changed


CASES: list[tuple[str, list[str], Callable[[Path], None] | None, str]] = [
    ("missing folder", ["poison", "nowhere", *POISON[2:]], None, "nowhere: no such folder"),
    ("missing folder", change(TRAIN, "--data", "nowhere"), None, "nowhere: no such folder"),
    ("missing folder", change(FILTER, "--data", "no", "--threshold", "1"), None, "no: no such"),
    ("missing folder", change(EVALUATE, "--data", "no"), None, "no: no such folder"),
    ("missing folder", ["data", "verify", "nowhere"], None, "nowhere: no such folder"),
    ("missing folder", ["data", "verify", "squares", "--clean", "no"], None, "no: no such folder"),
    ("missing folder", ["report", "nowhere"], None, "nowhere"),
    ("missing folder", ["report", "nowhere", "full"], None, "nowhere"),
    ("no pairs folder", ["data", "verify", "full"], None, "full: no known format is recognised"),
    (
        "method",
        [*change(FILTER, "--method", "suspicious-groups", "--threshold", "1"), "--auto"],
        None,
        "exactly one of threshold (--threshold)",
    ),
    (
        "rate",
        change(FILTER, "--threshold", "1", "--false-alarms", "0.1"),
        None,
        "relevance-filter finds no groups and knows no p-values",
    ),
    (
        "rate",
        change(FILTER, "--method", "suspicious-groups", "--false-alarms", "2"),
        None,
        "false_alarms 2.0 is not between 0 and 1",
    ),
    ("no run folder", ["report", "full"], None, "full"),
    ("broken line", POISON, broken_line, "captions.jsonl line 7: not valid JSON"),
    ("broken line", TRAIN, broken_line, "captions.jsonl line 7"),
    ("class", change(POISON, "--goal", "shep2sofa"), None, "unknown class 'shep': did you mean"),
    ("class", change(EVALUATE, "--goal", "sheep2soda"), None, "unknown class 'soda': did you mean"),
    ("goal", change(POISON, "--goal", "sheep"), None, "goal 'sheep' is not of the form A2B"),
    ("label", POISON, unlabelled, "the data carry no labels"),
    ("label", EVALUATE, unlabelled, "the data carry no labels"),
    (
        "rate",
        [*change(POISON, "--rate", "-0.1")[:4], "--rate", "-0.1", "--out", "out"],
        None,
        "rate -0.1 is not between 0 and 1",
    ),
    ("samples", change(POISON, "--samples", "-3"), None, "samples -3: at least 1 is needed"),
    ("samples", change(POISON, "--samples", "99"), None, "at most samples=5"),
    (
        "two amounts",
        change(POISON, "--pairs", "3"),
        None,
        "exactly one of samples, pairs, rate and share",
    ),
    ("attack", change(POISON, "--attack", "single"), None, "unknown attack 'single'"),
    ("occupied", change(POISON, "--out", "full"), None, "full: is not empty"),
    ("occupied", change(TRAIN, "--out", "full"), None, "full: is not empty"),
    ("occupied", change(STERILIZE, "--out", "full"), None, "full: is not empty"),
    ("occupied", change(FILTER, "--out", "full", "--threshold", "1"), None, "full: is not empty"),
    ("occupied", change(EVALUATE, "--out", "full"), None, "full: is not empty"),
    ("occupied", ["data", "build", "openmoji", "--out", "full"], None, "full: is not empty"),
    ("occupied", ["run", "recipe.yaml", "--out", "full"], recipe_file(RECIPE), "not a run"),
    ("occupied", ["demo", "--out", "full"], None, "full: holds something that is not a run"),
    ("file as out", change(POISON, "--out", "full/thesis.txt"), None, "is a file"),
    ("recipe", ["run", "openmojis"], None, "unknown recipe 'openmojis': did you mean 'openmoji'"),
    ("recipe", ["run"], None, "which recipe? `mmpoison run --list` shows all"),
    ("recipe", ["run", "nowhere.yaml"], None, "nowhere.yaml: no such recipe file"),
    ("recipe", ["run", "recipe.yaml"], recipe_file("a: ["), "recipe.yaml: not valid YAML"),
    (
        "recipe key",
        ["run", "recipe.yaml", "--out", "out"],
        recipe_file(RECIPE + "trainin: {}\n"),
        "unknown key 'trainin': did you mean 'training'",
    ),
    (
        "recipe key",
        ["run", "openmoji", "--set", "training.epoch=2"],
        None,
        "unknown key 'training.epoch': did you mean 'epochs'",
    ),
    ("recipe key", ["demo", "--set", "training.epochs"], None, "KEY=VALUE is needed"),
    ("setting", change(TRAIN, "--set", "epoch=1"), None, "unknown key 'epoch': did you mean"),
    ("setting", change(TRAIN, "--set", "epochs=x"), None, "--set: epochs: "),
    ("setting", change(TRAIN, "--set", "epochs={e"), None, "the value is not valid YAML"),
    ("seeds", ["run", "openmoji", "--seeds", "a-b"], None, "--seeds 'a-b': numbers are needed"),
    ("seeds", ["run", "openmoji", "--seeds", "4-2"], None, "--seeds '4-2' names no seed"),
    ("no root", ["run", "rsicd-ucm", "--out", "out"], None, "needs the folder that holds it"),
    ("root", ["run", "rsicd-ucm", "--data-root", "no", "--out", "out"], None, "no: no such folder"),
    ("missing image", POISON, missing_image, "sheep/03.png: no such image"),
    ("missing image", TRAIN, missing_image, "sheep/03.png: no such image"),
    ("cut image", TRAIN, cut_image, "sheep/03.png: broken image"),
    ("strip image", TRAIN, strip_image, "a side is over the limit of 65,535"),
    (
        "all images cut",
        change(FILTER, "--threshold", "1"),
        cut_images,
        "no image of split 'train' can be read (28 of 28 images cannot be read, the first: ",
    ),
    (
        "cut image",
        ["run", "recipe.yaml", "--out", "out"],
        recipe_and_cut_image,
        "sheep/03.png: broken image",
    ),
    ("no model", change(TRAIN, "--model", "mod/el"), None, "mod/el: no such checkpoint folder"),
    ("no model", change(TRAIN, "--model", "openmoji-smal"), None, "did you mean 'openmoji-small'"),
    ("no model", change(EVALUATE, "--model", "full"), None, "so it is not a checkpoint"),
    ("no model", TRAIN, no_config, "so it is not a checkpoint"),
    ("no model", EVALUATE, cut_weights, "broken weights"),
    ("no model", change(FILTER, "--threshold", "1"), cut_weights, "broken weights"),
    ("threshold", FILTER, None, "exactly one of threshold (--threshold), clean_loss (--lose)"),
    (
        "threshold",
        [*FILTER, "--auto", "--lose", "0.1"],
        None,
        "exactly one of threshold (--threshold)",
    ),
    ("threshold", change(FILTER, "--lose", "1.5"), None, "1.5 is not a share"),
    ("judge", [*FILTER, "--auto", "--victim", "model"], None, "is the model to be trained"),
    ("labels", change(FILTER, "--labels", "no.csv"), None, "no.csv: no such file; `--label` asks"),
    ("labels", change(FILTER, "--labels", "full/thesis.txt"), None, "columns pair and verdict"),
    ("labels", [*FILTER, "--label"], None, "--label needs --labels FILE"),
    ("threshold", change(FILTER, "--threshold", "3"), None, "threshold 3.0 is not a cosine"),
    ("threshold", change(FILTER, "--threshold", "0.01"), None, "drops every pair"),
    ("data set", ["data", "build", "openmojis", "--out", "out"], None, "unknown data set"),
    ("data set", ["data", "build", "rsicd-ucm", "--out", "out"], None, "cannot be made here"),
    ("split", change(STERILIZE, "--split", "vla"), None, "unknown split 'vla': did you mean 'val'"),
]


def refused(cli: Cli, work: Path, snapshot: Snapshot, command: list[str], says: str) -> None:
    before = snapshot(work)
    result = cli(*command)
    assert result.code == 2
    assert result.err.startswith("mmpoison: ")
    assert result.err.endswith("\n")
    assert len(result.err.splitlines()) == 1, result.err
    assert says in result.err
    assert "Traceback" not in result.err + result.out
    after = {name: data for name, data in snapshot(work).items() if not name.startswith("cache")}
    assert after == before


@pytest.mark.parametrize(
    ("command", "prepare", "says"),
    [pytest.param(*case[1:], id=f"{case[0]}: {case[1][0]}") for case in CASES],
)
def test_refused(
    cli: Cli,
    work: Path,
    snapshot: Snapshot,
    command: list[str],
    prepare: Callable[[Path], None] | None,
    says: str,
) -> None:
    if prepare is not None:
        prepare(work)
    refused(cli, work, snapshot, command, says)


def test_a_huge_image(cli: Cli, work: Path, snapshot: Snapshot, huge_png: bytes) -> None:
    (work / "squares" / "sheep" / "03.png").write_bytes(huge_png)
    refused(cli, work, snapshot, TRAIN, "sheep/03.png: too many pixels")


def test_sterilizing_on_poisoned_pairs(cli: Cli, work: Path, snapshot: Snapshot) -> None:
    assert cli(*change(POISON, "--out", "poisoned")).code == 0
    command = change(STERILIZE, "--data", "poisoned", "--split", "train")
    refused(cli, work, snapshot, command, "of the pairs given as clean are poisoned")


def test_poisoning_twice(cli: Cli, work: Path, snapshot: Snapshot) -> None:
    assert cli(*change(POISON, "--out", "poisoned")).code == 0
    command = ["poison", "poisoned", *POISON[2:]]
    refused(cli, work, snapshot, command, "the pairs are poisoned already")


def test_a_folder_that_may_not_be_written(
    cli: Cli, work: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    def refuse(*_: Any, **options: Any) -> str:
        raise PermissionError(13, "Permission denied", str(options.get("dir")))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    refused(cli, work, snapshot, POISON, "Permission denied")


@pytest.mark.parametrize(
    "command",
    [
        ["poison", "squares", "--out", "out"],
        change(POISON, "--mode", "swap"),
        change(POISON, "--seed", "-1"),
        change(POISON, "--samples", "two"),
        ["poisn"],
        ["run", "openmoji", "--nonsense"],
    ],
)
def test_a_command_that_is_not_understood(cli: Cli, work: Path, command: list[str]) -> None:
    """These are typer's own: exit code 2, no traceback, nothing written."""
    result = cli(*command)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert not (work / "out").exists()


def test_a_diverged_loss_is_one_line_too(cli: Cli, work: Path, snapshot: Snapshot) -> None:
    before = snapshot(work)
    result = cli(
        *change(TRAIN, "--set", "learning_rate=1e30"),
        *("--set", "epochs=3", "--set", "precision=fp32", "--set", "batch_size=32"),
    )
    assert result.code == 1
    assert result.err.startswith("mmpoison: the loss is ")
    assert len(result.err.splitlines()) == 1
    # the log of what happened stays, beside the model that did not come about
    lines = (work / "out.training" / "steps.jsonl").read_text().splitlines()
    assert all(json.loads(line)["step"] for line in lines)
    shutil.rmtree(work / "out.training")
    assert snapshot(work) == before


def test_a_run_folder_stays_in_runs() -> None:
    """Names of a recipe, which may be anybody's, become part of a folder's name and never a way out of `runs`."""
    from mmpoison.cli.run import _run_folder
    from mmpoison.runs.recipe import load_recipe

    for name in ("../../escape", "/etc/x", "a/b", "..", "a\x00b", "a\nb"):
        folder = _run_folder(load_recipe("openmoji", {"name": name}), None, many=False)
        assert folder.parent == Path("runs")
        assert folder.name.isprintable()
