"""A bundle holds what a run needs to be run again, nothing of its machine, and a hostile one is refused."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.reporting.test_overview import write_run

from mmpoison.errors import InputError
from mmpoison.records.bundle import MEMBERS, read_facts, read_member, write_members
from mmpoison.records.run_files import Metrics
from mmpoison.reporting.bundle import bundle_metrics, compare_numbers, write_bundle
from mmpoison.runs.recipe import load_recipe

SECRET = "/home/somebody"
PICTURE = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with paths of a machine, pictures and weights in it."""
    folder = tmp_path / "runs" / "mine"
    write_run(folder, 0)
    recipe = {
        "name": "mine",
        "data": {"name": "rsicd-ucm", "root": f"{SECRET}/photos", "options": {"images": f"{SECRET}/x"}},
        "model": {"name": f"{SECRET}/start"},
        "attack": {"name": "single-target-label", "goal": "sheep2aeroplane", "samples": 2},
        "training": {"epochs": 1},
        "transfer": [{"data": {"name": "openmoji", "root": SECRET}}],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["run"] |= {
        "data": {"name": f"{SECRET}/photos", "fingerprint": "f"},
        "models": {"poisoned": f"{SECRET}/model"},
        "versions": {"torch": "2.9"},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "manifest.json").write_text(json.dumps({"options": {"encoder": f"{SECRET}/e"}}))
    lists = {"goal": "sheep2aeroplane", "queries": [], "thumbnails": {"a.jpg": PICTURE}}
    (folder / "rank_lists.json").write_text(json.dumps(lists))
    suspicious = [{"caption": "a sheep", "image": "a.jpg", "distance": 0.5, "thumbnail": PICTURE}]
    (folder / "suspicious_pairs.json").write_text(json.dumps(suspicious))
    (folder / "models").mkdir()
    (folder / "models" / "weights.safetensors").write_bytes(b"w" * 1000)
    return folder


def test_a_bundle_has_the_files_and_nothing_of_the_machine(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.zip"
    done = write_bundle(run, file)
    assert done.needs == ("data.root", "model.name", "transfer")
    with zipfile.ZipFile(file) as archive:
        assert tuple(archive.namelist()) == MEMBERS
        whole = b"".join(archive.read(name) for name in MEMBERS)
    for secret in (SECRET, str(tmp_path), "data:image", "wwww"):
        assert secret.encode() not in whole
    facts = read_facts(file)
    assert facts["versions"] == {"torch": "2.9"}
    assert facts["goals"] == bundle_metrics(file).goals
    # the run's own page and numbers
    page = read_member(file, "report.html")
    assert b"<html" in page
    assert b"a sheep" in page
    assert compare_numbers(bundle_metrics(file), Metrics.read(run / "metrics.json"))[1:] == (0, 0.0)
    first = file.read_bytes()
    write_bundle(run, file)
    assert file.read_bytes() == first


def test_what_only_its_maker_had_must_be_given(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.zip"
    write_bundle(run, file)
    with pytest.raises(InputError) as caught:
        load_recipe(file)
    assert str(caught.value) == (
        f"{file}: used data or a model of its maker's own machine: give yours with --data-root DIR "
        "--set model.name=... --set transfer=..."
    )
    given = {"data.root": "here", "model.name": "openmoji-small", "transfer": None}
    recipe = load_recipe(file, given)
    assert (recipe.data.root, recipe.model.name) == ("here", "openmoji-small")
    assert recipe.attack.goals == ["sheep2aeroplane"]


def test_what_cannot_be_packed_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a bundle is a \.zip file"):
        write_bundle(run, tmp_path / "mine.tar")
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"no finished run, it has no metrics\.json"):
        write_bundle(run, tmp_path / "mine.zip")
    assert not (tmp_path / "mine.zip").exists()


def test_numbers_are_compared(run: Path) -> None:
    ours = Metrics.read(run / "metrics.json")
    value = ours.to_json()
    value["drift"]["text"] += 0.5
    value["utility"].pop("filtered")
    count, different, largest = compare_numbers(Metrics.of(value, "x"), ours)
    assert (different, largest) == (1, 0.5)
    assert 0 < count < compare_numbers(ours, ours)[0]


# -- bundles of strangers --------------------------------------------------------------------------


def _zip(file: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../recipe.yaml", b"a: 1")], "is no bundle of a run, it holds '../recipe.yaml'"),
        ([("/etc/x", b"a: 1")], "is no bundle of a run, it holds '/etc/x'"),
        ([("recipe.yaml", b"a: 1"), ("x.so", b"")], "is no bundle of a run, it holds 'x.so'"),
        ([(_link("recipe.yaml"), b"/etc/passwd")], "is a link or a device"),
        ([("recipe.yaml", b"a: 1"), ("recipe.yaml", b"b: 1")], "occurs twice"),
        ([("metrics.json", b"{}")], "it has no recipe.yaml"),
        ([("recipe.yaml", b"extends: ../secret.yaml")], "names other files"),
        ([("recipe.yaml", b"data: {name: coco, root: /srv}")], "names other files"),
        ([("recipe.yaml", b"a: " + b"x" * (2 << 20))], "has over 1,048,576 bytes"),
        ([("recipe.yaml", b"- 1")], "a recipe is a mapping of keys"),
    ],
    ids=["slip", "absolute", "other", "link", "twice", "none", "extends", "root", "long", "list"],
)
def test_hostile_bundles_are_refused(
    tmp_path: Path, members: list[Any], message: str, snapshot: Callable[[Path], Any]
) -> None:
    file = _zip(tmp_path / "x.zip", *members)
    before = snapshot(tmp_path)
    with pytest.raises(InputError) as caught:
        load_recipe(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmpoison.records.bundle.MOST_BYTES", 1000)
    file = _zip(tmp_path / "x.zip", ("recipe.yaml", b"a" * 5000))
    with pytest.raises(InputError, match="a bomb"):
        load_recipe(file)
    # one that claims less than it holds
    raw = file.read_bytes().replace((5000).to_bytes(4, "little"), (900).to_bytes(4, "little"))
    file.write_bytes(raw)
    with pytest.raises(InputError, match=r"a bomb|broken zip"):
        load_recipe(file)
    with pytest.raises(InputError, match="a bundle takes 1,000"):
        write_members(tmp_path / "y.zip", {"recipe.yaml": b"a" * 5000})
    monkeypatch.setattr("mmpoison.records.bundle.MOST_PACKED", 10)
    with pytest.raises(InputError, match="a bundle has not"):
        load_recipe(file)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"no zip at all", b"PK\x05\x06" + b"\xff" * 18]
)
def test_what_is_no_zip_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.zip"
    file.write_bytes(content)
    with pytest.raises(InputError, match="broken zip file"):
        load_recipe(file)
    with pytest.raises(InputError, match="no such"):
        load_recipe(tmp_path / "y.zip")
