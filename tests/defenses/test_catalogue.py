"""Every defence keeps the contract of its kind; so do the examples of the documentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpoison.datasets import PairDataset
from mmpoison.defenses import DEFENSES, FilterResult
from mmpoison.errors import InputError
from mmpoison.models import DualEncoder, PairInputs, prepare_pixels, save_checkpoint
from mmpoison.training import TrainingResult, TrainingSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks" / "write-a-defence.md"
QUICK = TrainingSettings(epochs=1, batch_size=32, learning_rate=1e-3, precision="fp32")

# what a constructor needs that has no default
ARGUMENTS: dict[str, dict[str, Any]] = {
    "relevance-filter": {"clean_loss": 0.1},
    "clean-finetune": {"settings": QUICK},
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


def keeps_the_contract(
    defense: Any, encoder: DualEncoder, poisoned: PairDataset, inputs: PairInputs
) -> None:
    """Apply a defence and check what its kind promises."""
    train, clean = poisoned.select(split="train"), poisoned.select(split="val")
    before = {name: value.clone() for name, value in encoder.module.state_dict().items()}
    if defense.kind == "pre-training":
        result = defense.apply(train, encoder, inputs, seed=1)
        assert isinstance(result, FilterResult)
        assert result.keep.shape == result.scores.shape == (len(train),)
        assert result.keep.dtype == np.bool_
        assert np.isfinite(result.scores).all()
        assert result.keep.any()
        assert result.kept is not None
        assert list(result.kept.captions) == list(train.captions[result.keep])
        assert result.facts()["poisoned_total"] == 13
        again = defense.apply(as_a_stranger_sees_it(train), encoder, inputs, seed=1)
        np.testing.assert_array_equal(again.keep, result.keep)
        np.testing.assert_array_equal(again.scores, result.scores)
        with pytest.raises(InputError):
            defense.apply(train.where(np.zeros(len(train), dtype=bool)), encoder, inputs, seed=1)
    else:
        arguments = (encoder, train, inputs, QUICK)
        if defense.kind == "post-training":
            arguments = (encoder, clean, inputs)  # type: ignore[assignment]
            with pytest.raises(InputError, match="poisoned"):
                defense.apply(encoder, train, inputs, seed=1)
        result = defense.apply(*arguments, seed=1)
        assert isinstance(result, TrainingResult)
        assert result.encoder is not encoder
        stranger = as_a_stranger_sees_it(arguments[1])
        again = defense.apply(encoder, stranger, *arguments[2:], seed=1)
        weights = again.encoder.module.state_dict()
        for name, value in result.encoder.module.state_dict().items():
            assert torch.equal(weights[name], value), name
        assert any(
            not torch.equal(value, before[name])
            for name, value in result.encoder.module.state_dict().items()
        )
    for name, value in encoder.module.state_dict().items():
        assert torch.equal(value, before[name]), f"the encoder was changed: {name}"


@pytest.mark.parametrize("name", list(DEFENSES))
def test_every_defence(
    name: str, encoder_of: DualEncoder, poisoned: PairDataset, inputs: PairInputs
) -> None:
    plug_in: Any = DEFENSES[name]
    keeps_the_contract(plug_in(**ARGUMENTS.get(name, {})), encoder_of, poisoned, inputs)


# -- the examples of the documentation -------------------------------------------------------------

FILES = [
    block
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    if block.startswith('"""')
]


@pytest.fixture
def registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    list(DEFENSES)
    known = dict(DEFENSES._items)
    yield
    DEFENSES._items.clear()
    DEFENSES._items.update(known)


def test_there_is_one_of_each_kind() -> None:
    kinds = [re.search(r'ClassVar\[Kind\] = "(.*?)"', block) for block in FILES]
    assert [kind and kind[1] for kind in kinds] == ["pre-training", "in-training", "post-training"]


@pytest.mark.parametrize("number", range(3), ids=["before", "in", "after"])
def test_the_examples(
    number: int,
    registry: None,
    encoder_of: DualEncoder,
    poisoned: PairDataset,
    inputs: PairInputs,
    make_encoder: Callable[..., DualEncoder],
    tmp_path: Path,
) -> None:
    file = tmp_path / "example.py"
    file.write_text(FILES[number])
    before = set(DEFENSES)
    exec(compile(FILES[number], str(file), "exec"), {"__name__": "example"})
    (name,) = set(DEFENSES) - before
    plug_in: Any = DEFENSES[name]
    assert plug_in.name == name
    arguments = {}
    if name == "half-way-back":
        save_checkpoint(make_encoder(5), tmp_path / "older", card="older")
        arguments = {"before": str(tmp_path / "older"), "settings": QUICK}
    keeps_the_contract(plug_in(**arguments), encoder_of, poisoned, inputs)
