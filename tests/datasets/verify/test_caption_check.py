"""Captions that say nothing, are too long, or carry what is not text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpoison.datasets import ImageTable, PairDataset
from mmpoison.datasets.verify.pairs_check import (
    check_captions,
    is_too_long,
    says_something,
)


def facts(*of_images: list[str], splits: str = "") -> dict[str, Any]:
    names = {"r": "train", "v": "val", "e": "test"}
    letters = splits or "r" * len(of_images)
    count = len(of_images)
    images = ImageTable.build(
        [f"{n}.png" for n in range(count)],
        [None] * count,
        [names[letter] for letter in letters],
        Path(),
    )
    texts = [text for captions in of_images for text in captions]
    image = np.repeat(np.arange(count), [len(captions) for captions in of_images])
    return check_captions(PairDataset.build(images, texts, image))


def test_empty_captions() -> None:
    found = facts(["a sheep"], [".", " \n", "", "...!"], ["羊", "🐑", "7", "."])
    assert found["empty"] == 5
    assert found["examples"] == {"empty": "1.png"}
    assert found["captions"] == 9
    assert found["distinct"] == 8
    assert facts(["a sheep"])["examples"] == {}


def test_markup_and_control_characters() -> None:
    found = facts(
        ["a <b>sheep</b>", "a &amp; b", "a < b and b > c", "&c; 1 < 2", "x &#39; y", "AT&T <3"],
        ["\x1b[31mred", "tab\tand line\n", "\u202eabc", "a\u200bb", "zero\x00", "plain"],
    )
    assert found["html"] == 4
    assert found["control"] == 4
    assert found["examples"] == {"html": "0.png", "control": "1.png"}


def test_repeated_and_shared_captions() -> None:
    found = facts(["a", "a", "b"], ["a"], ["b", "b"], [], splits="rrev")
    assert found["repeated"] == 2
    assert found["in_train_and_test"] == 1
    assert found["images_without"] == 1
    assert found["examples"] == {"repeated": "0.png", "images_without": "3.png"}


def test_words() -> None:
    assert facts(["one", "one two three", "one two three", "1 2 3 4"])["words"] == [1, 3, 4]
    assert facts([])["words"] == [0, 0, 0]


@pytest.fixture(scope="session")
def clip_tokens() -> Callable[[str], int]:
    """CLIP's own count of tokens, the start and the end among them."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return lambda text: len(tokenizer.encode(text)) + 2


@pytest.mark.parametrize("text", ["a sheep ", "can't ", "1 2,3 ", "&amp; ", "ein Schaf über "])
def test_what_is_called_too_long_is(clip_tokens: Callable[[str], int], text: str) -> None:
    for times in range(1, 90):
        if is_too_long(text * times):
            assert clip_tokens(text * times) > 77
            break
    else:
        raise AssertionError("nothing is too long")


@settings(max_examples=100)
@given(text=st.text(st.characters(codec="ascii"), min_size=60, max_size=200))
def test_too_long_is_a_lower_bound(clip_tokens: Callable[[str], int], text: str) -> None:
    assert not is_too_long(text) or clip_tokens(text) > 77


@given(st.text())
def test_any_text_can_be_asked(text: str) -> None:
    assert says_something(text) or not text.strip() or not any(map(str.isalnum, text))
    is_too_long(text)
