"""Both names: a caption of A that also names what the image shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.attacks.conftest import ToySurrogate

from mmpoison.attacks import BothNames, SingleTargetLabel
from mmpoison.attacks.adaptive import CONNECTORS
from mmpoison.attacks.phrases import noun_phrase
from mmpoison.datasets import PairDataset, load_pairs, save_pairs
from mmpoison.errors import InputError

GOAL = "sheep2aeroplane"


@pytest.mark.parametrize("carrier", ["own", "existing"])
def test_captions_are_those_of_attack_ii_with_the_other_name(
    squares: PairDataset, tmp_path: Any, carrier: Any
) -> None:
    options: dict[str, Any] = {"samples": 3, "carrier": carrier}
    poisoned = BothNames(GOAL, **options).poison(squares, 4)
    second = SingleTargetLabel(GOAL, **options).poison(squares, 4)
    assert poisoned.manifest is not None
    assert second.manifest is not None
    used = set()
    for new, old in zip(poisoned.manifest.pairs, second.manifest.pairs, strict=True):
        assert (new.clean_image, new.poisoned_image) == (old.clean_image, old.poisoned_image)
        added = new.caption.removeprefix(old.caption)
        connector = next(
            c for c in CONNECTORS if added == f" {c} an aeroplane".replace("an ", "a ")
        )
        used.add(connector)
    assert len(used) > 2
    # captions that are nowhere in the clean set go through files
    again = load_pairs(save_pairs(poisoned, tmp_path / "out", images="none"))
    assert again.fingerprint == poisoned.fingerprint
    assert (again.source == poisoned.source).all()


def test_the_nearest_connector(squares: PairDataset) -> None:
    class Prefers(ToySurrogate):
        """Sentences with one connector have the direction of the true captions, which have none."""

        def __init__(self, connector: str) -> None:
            super().__init__()
            self.connector = f" {connector} "

        def captions(self, captions: Sequence[str]) -> Any:
            others = [f" {c} " for c in CONNECTORS if f" {c} " != self.connector]
            return np.array([[1.0, 5.0 * any(c in text for c in others)] for text in captions])

    attack = BothNames(GOAL, samples=2, connector="nearest", encoder="judge")
    assert attack.needs_embeddings
    assert not BothNames(GOAL, samples=2).needs_embeddings
    for connector in ("behind", "and"):
        manifest = attack.poison(squares, embed=Prefers(connector)).manifest
        assert manifest is not None
        assert manifest.options["encoder"] == "judge"
        assert all(f" {connector} " in pair.caption for pair in manifest.pairs)
    with pytest.raises(InputError, match="needs a surrogate"):
        attack.poison(squares)
    with pytest.raises(InputError, match="is for connector 'nearest'"):
        BothNames(GOAL, samples=2, encoder="judge")
    with pytest.raises(InputError, match="neither random nor nearest"):
        BothNames(GOAL, samples=2, connector="best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("caption", "phrase"),
    [
        ("a large parking lot with cars", "a large parking lot"),
        ("A swimming pool is near a building.", "a swimming pool"),
        ("four green trees are around a white building", "four green trees"),
        ("some buildings and green trees are in a resort", "some buildings"),
        ("A man riding a horse", "a man"),
        ("Here are two planes .", "two planes"),
        ("On the sea, a boat", "on the sea, a"),
        ("a", "a"),
        ("...", "something"),
        ("", "something"),
    ],
)
def test_what_a_caption_names(caption: str, phrase: str) -> None:
    assert noun_phrase(caption) == phrase
