"""Edited captions: what an edit may do, and how much of a caption changes."""

from __future__ import annotations

from collections import Counter

from mmpoison.base.seeding import generator
from mmpoison_lab.synonyms import EditWords


def test_each_edit_is_one_of_the_four() -> None:
    caption = "a big dog runs over green grass"
    words = caption.split()
    kinds: Counter[str] = Counter()
    edit = EditWords(synonyms={"big": ("large",), "dog": ("hound",)})
    for edited in edit([caption] * 400, generator(0, "edit")):
        new = edited.split()
        changed = [(a, b) for a, b in zip(words, new, strict=False) if a != b]
        if len(new) < len(words):
            kinds["deleted"] += 1
            assert not Counter(new) - Counter(words)
        elif len(new) > len(words):
            kinds["inserted"] += 1
            (extra,) = Counter(new) - Counter(words)
            assert extra in {*words, "large", "hound"}
        elif Counter(new) == Counter(words):
            kinds["swapped" if changed else "same"] += 1
            assert len(changed) in (0, 2)
        else:
            kinds["replaced"] += 1
            assert changed in ([("big", "large")], [("dog", "hound")])
    assert set(kinds) == {"deleted", "inserted", "swapped", "replaced", "same"}
    assert 70 <= kinds["deleted"] <= 130
    assert 70 <= kinds["inserted"] <= 130
    assert 70 <= kinds["swapped"] <= 130


def test_a_caption_of_one_word_stays() -> None:
    assert EditWords()(["dog", ""], generator(0, "edit")) == ["dog", ""]


def test_a_tenth_of_the_words_changes() -> None:
    caption = " ".join(f"w{n}" for n in range(40))
    edited = EditWords()([caption] * 50, generator(0, "edit"))
    assert {len(one.split()) for one in edited} == {36, 40, 44}
