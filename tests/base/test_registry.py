"""The registry, and the contract of EVERY plug-in: a new one is tested here by being there."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from tests.attacks.conftest import PixelToy, ToySurrogate
from tests.conftest import refusal

from mmpoison.attacks import ATTACKS, Attack, rebuild, run_attack
from mmpoison.attacks.catalogue import AttackKind, attack_problems
from mmpoison.base import registry as registries
from mmpoison.base.registry import Registry, plugin_fault
from mmpoison.base.workers import TaskRunner
from mmpoison.cli.data import is_format
from mmpoison.cli.last_resort import explain
from mmpoison.datasets import DATASETS, PairDataset, load_dataset
from mmpoison.datasets.catalogue import option_kinds
from mmpoison.datasets.verify import manifest_problems
from mmpoison.defenses import DEFENSES
from mmpoison.defenses.catalogue import CUT_OPTIONS, DefenseKind
from mmpoison.errors import InputError
from mmpoison.models import MODELS, load_encoder
from mmpoison.pairs.table import ImageTable

# -- the registry itself ---------------------------------------------------------------------------


@pytest.fixture
def registry() -> Registry[str]:
    # a package that registers nothing in it
    made: Registry[str] = Registry("fruit", "mmpoison.metrics")
    made.register("pear")("a pear")
    made.register("apple")("an apple")
    return made


def test_a_registry_is_a_sorted_mapping(registry: Registry[str]) -> None:
    assert list(registry) == ["apple", "pear"]
    assert len(registry) == 2
    assert registry["pear"] == "a pear"
    assert "pear" in registry
    assert "plum" not in registry


def test_many_names_are_left_to_the_command_that_lists_them() -> None:
    many: Registry[str] = Registry("fruit", "mmpoison.metrics", listed_by="grocer list")
    for name in ("apple", "apples", "pear"):
        many.register(name)(name)
    assert refusal(many.__getitem__, "appl") == (
        "unknown fruit 'appl': did you mean 'apple' or 'apples'? `grocer list` shows all"
    )
    assert refusal(many.__getitem__, "xyz") == "unknown fruit 'xyz': `grocer list` shows all"


FRUITS = {
    "knife": "def half(of):\n    return of / 0\n",
    "plug_in": """from own_fruits.knife import half

class Half:
    def sort(self, values):
        return sorted(values, key=half)

    def again(self, registry):
        registry.register("half")(None)
""",
}


def test_an_error_in_a_plug_in_names_its_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    monkeypatch.setattr(registries, "_REGISTERED", {})
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_fruits").mkdir()
    for name, text in FRUITS.items():
        (tmp_path / "own_fruits" / f"{name}.py").write_text(text)
    registry: Registry[Any] = Registry("fruit", "mmpoison.metrics")
    half = registry.register("half")(importlib.import_module("own_fruits.plug_in").Half)()

    def fails(call: Callable[..., object], *given: object) -> Exception:
        with pytest.raises((ZeroDivisionError, ValueError)) as caught:
            call(*given)
        return caught.value

    place = f"{tmp_path / 'own_fruits' / 'knife.py'}, line 2"
    ends = f"failed in {place} (ZeroDivisionError: division by zero): report it to its author"
    line, code = explain(fails(half.sort, [1]))
    assert line.startswith(f"plug-in fruit 'half' {ends}; the stack trace is in {fresh_cache}")
    assert code == 2
    said = plugin_fault(fails(importlib.import_module("own_fruits.knife").half, 1))
    assert said == f"plug-in of package own_fruits {ends}"
    # what mmpoison raises is its own, whoever has called it
    assert plugin_fault(fails(half.again, registry)) is None
    task: Any = SimpleNamespace(out=tmp_path / "runs" / "a", run=lambda *_: half.sort([1]))
    reply = TaskRunner(None)(task)
    assert (reply.error, reply.retry) == (f"plug-in fruit 'half' {ends}", False)


def test_a_name_is_given_once(registry: Registry[str]) -> None:
    with pytest.raises(ValueError, match="two fruits have the name 'pear'"):
        registry.register("pear")("another pear")
    # a module that is imported again registers the same thing again
    assert registry.register("pear")(registry["pear"]) == registry["pear"] == "a pear"
    assert len(registry) == 2


def test_plugins_are_found_by_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "a_plugin_package"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from mmpoison.base.registry import Registry\nTOYS = Registry('toy', 'a_plugin_package')\n"
    )
    (package / "ball.py").write_text(
        "from a_plugin_package import TOYS\nTOYS.register(\"ball\")('a ball')\n"
    )
    (package / "top.py").write_text(
        "from a_plugin_package import TOYS\nTOYS.register('t' + 'op')('a top')  \n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from a_plugin_package import TOYS  # type: ignore[import-not-found]

    # a name that is written out needs its own module alone
    assert "ball" in TOYS
    assert TOYS["ball"] == "a ball"
    assert "a_plugin_package.top" not in sys.modules
    assert dict(TOYS) == {"ball": "a ball", "top": "a top"}


# -- every attack ----------------------------------------------------------------------------------


def one_line(text: object) -> bool:
    """Whether something is a line that can stand in a table."""
    return (
        isinstance(text, str) and bool(text.strip()) and text == text.strip() and "\n" not in text
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images of `small_pairs`, each of another colour, for attacks that make new ones."""
    folder = tmp_path_factory.mktemp("small")
    for number, name in enumerate(small_pairs(folder).images.ids):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (16, 14), (7 * number, 100, 50)).save(folder / name, "PNG")
    return folder


def small_pairs(root: Path) -> PairDataset:
    """Four classes of six images, half of them test; ten unlabelled images; four captions each."""
    ids: list[str] = []
    labels: list[str | None] = []
    splits: list[str] = []
    for label in ("aeroplane", "bird", "sheep", "sofa"):
        for number in range(6):
            ids.append(f"{label}/{number}.jpg")
            labels.append(label)
            splits.append("train" if number < 3 else "test")
    for number in range(10):
        ids.append(f"unlabelled/{number}.jpg")
        labels.append(None)
        splits.append("train")
    captions = [f"{name}, words {n}" for name in ids for n in range(4)]
    images = ImageTable.build(ids, labels, splits, root)
    return PairDataset.build(images, captions, np.repeat(np.arange(len(ids)), 4))


def build_attack(name: str) -> Attack:
    """An attack with the smallest options that its constructor takes."""
    usual: dict[str, Any] = {
        "goal": "sheep2aeroplane",
        "goals": ["sheep2aeroplane", "sofa2bird"],
        "samples": 2,
        "decoys": 1,
        "decoy_samples": 1,
        "steps": 20,
    }
    accepted = inspect.signature(ATTACKS[name]).parameters
    return ATTACKS[name](**{key: value for key, value in usual.items() if key in accepted})


def poison(attack: Attack, clean: PairDataset, seed: int = 0) -> PairDataset:
    """Poison a set as the command line and recipes do; an attack that needs embeddings finds nothing suspicious."""
    toy = PixelToy if getattr(attack, "needs_pixels", False) else ToySurrogate
    return run_attack(attack, clean, seed, lambda name: toy(noise=3.0))


REGISTRIES: list[tuple[Any, tuple[str, ...], Any]] = [
    (ATTACKS, ("source", "section", "summary"), AttackKind),
    (DEFENSES, ("source", "summary", "cost"), DefenseKind),
    (DATASETS, ("summary", "where_from"), None),
    (MODELS, ("summary",), None),
]


@pytest.mark.parametrize(
    ("registry", "texts", "kinds", "name"),
    [(*each, name) for each in REGISTRIES for name in each[0]],
)
def test_a_plug_in_says_what_it_is(
    registry: Any, texts: tuple[str, ...], kinds: Any, name: str
) -> None:
    plug_in = registry[name]
    assert plug_in.name == name
    assert all(one_line(getattr(plug_in, text)) for text in texts)
    assert getattr(plug_in, "attribution", None) is None or one_line(plug_in.attribution)
    if kinds is not None:
        assert plug_in.kind in get_args(kinds)
        assert inspect.getdoc(plug_in)


# the control has no goal: the tests of the matrix run it
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "no-poison"])
class TestAttack:
    def test_takes_a_goal_or_goals(self, name: str) -> None:
        # recipes and the command line give goals by one of these names
        assert len({"goal", "goals"} & set(inspect.signature(ATTACKS[name]).parameters)) == 1

    def test_returns_a_new_table_that_carries_its_manifest(self, name: str, root: Path) -> None:
        clean = small_pairs(root)
        before = clean.fingerprint
        files = {path: path.read_bytes() for path in root.rglob("*.jpg")}
        poisoned = poison(build_attack(name), clean, seed=3)

        assert list(clean.lines()) == list(small_pairs(root).lines())
        assert clean.manifest is None
        # an attack edits the table of pairs, never the images; those that it makes are further rows
        added = poisoned.manifest.added_images if poisoned.manifest is not None else {}
        assert added or poisoned.images is clean.images
        assert [*clean.images.ids, *added] == list(poisoned.images.ids)
        assert {p: p.read_bytes() for p in root.rglob("*.jpg")} == files

        manifest = poisoned.manifest
        assert manifest is not None
        assert manifest.attack == name
        assert manifest.seed == 3
        assert manifest.mode in ("add", "replace")
        assert manifest.goals
        assert manifest.clean_fingerprint == before
        assert manifest.clean_pairs == len(clean.select(split="train"))
        assert manifest.training_pairs == len(poisoned.select(split="train"))
        assert 0 < manifest.rate == pytest.approx(poisoned.poisoning_rate)

        bad = poisoned.select(poisoned=True)
        ids = poisoned.images.ids
        found = sorted(zip(bad.captions, ids[bad.source], ids[bad.image], strict=True))
        assert found
        assert found == sorted(
            (pair.caption, pair.clean_image, pair.poisoned_image) for pair in manifest.pairs
        )
        for split in ("val", "test"):
            lines = list(poisoned.select(split=split).lines())[: len(clean.images)]
            assert lines == list(clean.select(split=split).lines())

    def test_comes_from_its_seed_and_its_manifest(self, name: str, root: Path) -> None:
        first = poison(build_attack(name), small_pairs(root), seed=5)
        assert first.manifest is not None
        # the options go through a manifest
        options = json.loads(json.dumps(first.manifest.options))
        assert options == build_attack(name).options
        again: Any = ATTACKS[first.manifest.attack](**options)
        assert again.options == options
        assert poison(again, small_pairs(root), seed=5).fingerprint == first.fingerprint
        assert first.manifest.fingerprint == first.fingerprint
        assert rebuild(small_pairs(root), first.manifest).fingerprint == first.fingerprint
        assert manifest_problems(first, small_pairs(root)) == []
        assert attack_problems(small_pairs(root), first.manifest)[0] == []
        fingerprints = {poison(again, small_pairs(root), seed=s).fingerprint for s in range(5)}
        assert len(fingerprints) > 1

    def test_refuses_a_set_that_is_poisoned_already(self, name: str, root: Path) -> None:
        attack = build_attack(name)
        with pytest.raises(InputError, match="poisoned already"):
            poison(attack, poison(attack, small_pairs(root)))


# -- every defence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DEFENSES))
class TestDefense:
    def test_names_its_parameters(self, name: str) -> None:
        defense: Any = DEFENSES[name]
        parameters = inspect.signature(defense).parameters.values()
        # those of the cut are the same for all filters
        own = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
        own -= CUT_OPTIONS
        assert set(defense.parameters) == own
        assert all(one_line(what) for what in defense.parameters.values())


# -- every data set --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DATASETS))
class TestDataset:
    def test_takes_the_options_it_names(self, name: str) -> None:
        source = DATASETS[name]
        for function in (source.load, source.build):
            if function is None or is_format(source):
                continue
            assert "seed" in inspect.signature(function).parameters
        assert set(source.options) <= set(option_kinds(source.load))
        if source.build is not None:
            assert {"out", "progress"} <= set(inspect.signature(source.build).parameters)

    def test_refuses_an_option_it_does_not_have(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=f"'{name}' has no option 'colour'"):
            load_dataset(name, tmp_path, options={"colour": "blue"})

    def test_can_be_had(self, name: str) -> None:
        source = DATASETS[name]
        if source.needs_root:
            with pytest.raises(InputError, match=f"data set '{name}' needs the folder"):
                load_dataset(name)
        else:
            assert source.build is not None, "nobody brings it and nothing makes it"

    def test_missing_folder_is_one_line(self, name: str, tmp_path: Path) -> None:
        assert "nowhere" in refusal(load_dataset, name, tmp_path / "nowhere")


# -- every model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MODELS))
class TestModel:
    def test_loads_without_arguments(self, name: str) -> None:
        source = MODELS[name]
        assert not any(
            parameter.default is inspect.Parameter.empty
            for parameter in inspect.signature(source.load).parameters.values()
        )

    @pytest.mark.slow
    def test_embeds_both_sides_into_one_space(self, name: str) -> None:
        try:
            encoder = load_encoder(name)
        except InputError as error:
            if "pip install" not in str(error) and "cannot be downloaded" not in str(error):
                raise
            pytest.skip(str(error))
        assert encoder.name == name
        assert not encoder.module.training
        captions = ["a sheep in a field", "an aeroplane"]
        size = encoder.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
        with torch.no_grad():
            image = encoder.encode_image(encoder.image_input(pixels)).numpy()
            text = encoder.encode_text(encoder.tokens(captions).long()).numpy()
        assert image.shape == text.shape == (2, image.shape[1])
        for rows in (image, text):
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert not np.allclose(text[0], text[1])
