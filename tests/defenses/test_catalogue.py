"""Every defence keeps the contract of its kind; so do the examples of the documentation."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
from tests.conftest import refusal

from mmpoison.datasets import PairDataset
from mmpoison.defenses import DEFENSES, FilterResult
from mmpoison.defenses.catalogue import (
    CheckResult,
    DefenseKind,
    build_defense,
    services_of,
    train_with,
)
from mmpoison.defenses.scan.cut.judging import filter_pairs
from mmpoison.errors import InputError
from mmpoison.evaluation import TestSet
from mmpoison.models import DualEncoder, PairInputs, prepare_pixels, save_checkpoint
from mmpoison.training import Checkpoints, Step, TrainingResult, TrainingSettings

TASKS = Path(__file__).resolve().parents[2] / "docs" / "tasks"
SECTIONS = (
    ("write-a-plugin", "Filter"),
    ("write-a-defence", "Robust training"),
    ("write-a-defence", "Repair"),
    ("write-a-defence", "Check"),
)
QUICK = TrainingSettings(epochs=1, batch_size=25, learning_rate=1e-3, precision="fp32")

# what a constructor needs that has no default, or one that takes long
ARGUMENTS: dict[str, dict[str, Any]] = {
    "relevance-filter": {"clean_loss": 0.1},
    "clean-finetune": {"settings": QUICK},
    "cleanclip": {"settings": QUICK},
    "par": {"settings": QUICK},
    # by default it takes minutes
    "decree": {"steps": 5},
}


@pytest.fixture(scope="module")
def encoder_of(make_encoder: Callable[..., DualEncoder]) -> DualEncoder:
    return make_encoder(3)


@pytest.fixture(scope="module")
def inputs(encoder_of: DualEncoder, poisoned: PairDataset) -> PairInputs:
    return prepare_pixels(encoder_of, poisoned)


def as_a_stranger_sees_it(pairs: PairDataset) -> PairDataset:
    """The same pairs with nothing in them that says which are poisoned."""
    return replace(pairs, source=pairs.image, manifest=None)


def stop(step: Step, _: DualEncoder) -> None:
    if step.step == 2:
        raise KeyboardInterrupt


def keeps_the_contract(
    defense: Any,
    encoder: DualEncoder,
    poisoned: PairDataset,
    inputs: PairInputs,
    suspect: DualEncoder,
    work: Path,
) -> None:
    """Apply a defence and check what its kind promises; a scan is given a suspect."""
    train, clean = poisoned.select(split="train"), poisoned.select(split="val")
    before = encoder.digest()
    if defense.kind == "pre-training":
        result: Any = filter_pairs(train, encoder, defense, inputs=inputs, seed=1)
        assert isinstance(result, FilterResult)
        assert result.keep.shape == result.scores.shape == (len(train),)
        assert result.keep.dtype == np.bool_
        assert np.isfinite(result.scores).all()
        assert result.keep.any()
        assert result.kept is not None
        assert list(result.kept.captions) == list(train.captions[result.keep])
        assert result.facts()["poisoned_total"] == 13
        again = filter_pairs(as_a_stranger_sees_it(train), encoder, defense, inputs=inputs, seed=1)
        np.testing.assert_array_equal(again.keep, result.keep)
        np.testing.assert_array_equal(again.scores, result.scores)
        none = train.where(np.zeros(len(train), dtype=bool))
        with pytest.raises(InputError):
            filter_pairs(none, encoder, defense, inputs=inputs, seed=1)
    elif defense.kind == "check":
        usual = [encoder, encoder.copy("other")]
        test = TestSet.of(poisoned)
        runs = [
            defense.apply(
                suspect, test, inputs, reference=encoder, clean_models=iter(usual), seed=1
            )
            for _ in range(2)
        ]
        assert isinstance(runs[0], CheckResult)
        assert runs[0] == runs[1]
        for found in runs[0].findings:
            assert 0 <= found.p_value <= 1
            assert str(found)
            json.dumps(found.to_json())
        json.dumps(runs[0].facts)
    else:
        arguments = (encoder, train, inputs, QUICK)
        if defense.kind == "post-training":
            arguments = (encoder, clean, inputs)  # type: ignore[assignment]
            with pytest.raises(InputError, match="13 of the pairs given as clean are poisoned"):
                defense.apply(encoder, train, inputs, seed=1)
        seen: list[tuple[int, str]] = []

        def applied(pairs: PairDataset, **services: Any) -> TrainingResult:
            given = (encoder, pairs, *arguments[2:])
            return train_with(defense, *given, seed=1, services=services)  # type: ignore[arg-type]

        def note(step: Step, model: DualEncoder) -> None:
            seen.append((step.step, model.digest()))

        result = applied(arguments[1], on_step=note)
        trained = result.encoder.digest()
        assert isinstance(result, TrainingResult)
        assert trained != before
        if "on_step" in services_of(defense):
            # the last call sees the model that is returned, or a guard would judge another one
            assert seen[-1] == (result.steps, trained)
            assert [step for step, _ in seen] == sorted({step for step, _ in seen})
        assert applied(as_a_stranger_sees_it(arguments[1])).encoder.digest() == trained
        if {"on_step", "checkpoints"} <= services_of(defense):
            # stopped, it resumes to the same bits
            states = Checkpoints(work / "states", steps=1)
            with pytest.raises(KeyboardInterrupt):
                applied(arguments[1], on_step=stop, checkpoints=states)
            resumed = applied(arguments[1], checkpoints=states)
            assert resumed.resumed_from > 0
            assert resumed.encoder.digest() == trained
    assert encoder.digest() == before, "the encoder was changed"


@pytest.mark.parametrize("name", list(DEFENSES))
def test_every_defence(
    name: str,
    encoder_of: DualEncoder,
    poisoned: PairDataset,
    inputs: PairInputs,
    make_encoder: Callable[..., DualEncoder],
    tmp_path: Path,
) -> None:
    plug_in: Any = DEFENSES[name]
    defense = plug_in(**ARGUMENTS.get(name, {}))
    keeps_the_contract(defense, encoder_of, poisoned, inputs, make_encoder(4), tmp_path)


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("relevance-filter", "threshold nan: must be a finite number", {"threshold": float("nan")}),
    ("relevance-filter", "clean_loss 0: must be greater than 0", {"clean_loss": 0}),
    ("relevance-filter", "labels [1]: must be ", {"labels": [1]}),
    ("relevance-filter", "give exactly one of threshold", {"labels": ""}),
    ("relevance-filter", "is not a cosine distance of image and caption", {"threshold": 0}),
    ("relevance-filter", "is not a cosine distance of image and caption", {"threshold": 2}),
    ("random-drop", "a random number between 0 and 1", {"threshold": 1.5}),
    ("local-density", "k 0: must be greater than or equal to 1", {"k": 0}),
    ("local-density", "k 1 is too small for dao", {"k": 1, "score": "dao"}),
    ("local-density", "must be 'pair', 'image' or 'caption'", {"modality": "text"}),
    ("decree", "images 7: must be greater than or equal to 8", {"images": 7}),
    ("decree", "similarity 1: must be less than 1", {"similarity": 1}),
    ("cleanclip", "weight -0.1: must be greater than or equal to 0", {"weight": -0.1}),
    ("par", "tau 4: must be less than 4", {"tau": 4}),
]


@pytest.mark.parametrize(("name", "says", "options"), REFUSED)
def test_options_that_are_refused(name: str, says: str, options: dict[str, Any]) -> None:
    kind = DEFENSES[name].kind
    settings = QUICK if kind == "post-training" else None
    assert says in refusal(build_defense, kind, name, options, settings=settings)


# -- the examples of the documentation -------------------------------------------------------------


def whole_files(page: str, section: str = "") -> list[str]:
    """The blocks of a page, or of one of its sections, that are a file of their own."""
    text = (TASKS / f"{page}.md").read_text(encoding="utf-8")
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r'```python\n(""".*?)```', text, re.DOTALL)


FILES = [block for page, section in SECTIONS for block in whole_files(page, section)]


@pytest.fixture
def registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    list(DEFENSES)
    known = dict(DEFENSES._items)
    yield
    DEFENSES._items.clear()
    DEFENSES._items.update(known)


def test_there_is_one_of_each_kind() -> None:
    kinds = [re.findall(r'^    kind = "(.*?)"', block, re.MULTILINE) for block in FILES]
    assert kinds == [[kind] for kind in get_args(DefenseKind)]


def test_every_example_is_run() -> None:
    pages = dict.fromkeys(page for page, _ in SECTIONS)
    shown = {block for page in pages for block in whole_files(page)}
    # tests/plugin/test_plugins.py installs the attack
    assert shown == {*FILES, *whole_files("write-a-plugin", "Attack")}
    assert len(shown) == 5


@pytest.mark.parametrize("number", range(4), ids=get_args(DefenseKind))
def test_the_examples(
    number: int,
    registry: None,
    encoder_of: DualEncoder,
    poisoned: PairDataset,
    inputs: PairInputs,
    make_encoder: Callable[..., DualEncoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "example.py"
    file.write_text(FILES[number])
    before = set(DEFENSES)
    module = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)  # dataclasses look there
    exec(compile(FILES[number], str(file), "exec"), module.__dict__)
    (name,) = set(DEFENSES) - before
    plug_in: Any = DEFENSES[name]
    assert plug_in.name == name
    arguments = {}
    if name == "half-way-back":
        save_checkpoint(make_encoder(5), tmp_path / "older", card="older")
        arguments = {"before": str(tmp_path / "older"), "settings": QUICK}
    keeps_the_contract(
        plug_in(**arguments), encoder_of, poisoned, inputs, make_encoder(4), tmp_path
    )
