"""Five English captions a scene, from the facts the composer knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmpoison.base.phrasing import capitalized
from mmpoison.datasets.openmoji.scene_data import CLASS_FACTS, TEMPLATES, Place

CAPTIONS_PER_SCENE = 5
MAX_WORDS = 16

# Written with a vowel but said with a consonant: "a ewe", never "an ewe".
_A_BEFORE_VOWEL = ("ewe", "uni", "use", "eu")
_IRREGULAR: Mapping[str, str] = {
    "sheep": "sheep", "man": "men", "woman": "women", "person": "people", "child": "children",
    "guy": "guys", "calf": "calves", "goose": "geese", "police officer": "police officers",
    "bull": "bulls",
}  # fmt: skip
_NUMBERS: Mapping[int, tuple[str, ...]] = {2: ("two", "two", "a pair of"), 3: ("three", "three")}
_SIZES = ("big", "large")

_HEADS = ("looking at the camera", "staring", "watching")


@dataclass(frozen=True)
class SceneFacts:
    """The facts that a caption of a scene may state.

    Attributes:
        label: the main object's class.
        nouns: what the main object may be called.
        colour: a colour word that is true, or ``None``.
        acts: gerunds of the drawing; empty takes the class's.
        count: how many of the main class there are, 1 to 3.
        place: where.
        large: the main object fills most of the image.
        airborne: it flies.
        head: only its head is drawn.
        company: nouns of the other object, or empty.
        distractor: noun of a small thing, or ``None``.
    """

    label: str
    nouns: tuple[str, ...]
    colour: str | None
    acts: tuple[str, ...]
    count: int
    place: Place
    large: bool = False
    airborne: bool = False
    head: bool = False
    company: tuple[str, ...] = ()
    distractor: str | None = None


def article(phrase: str) -> str:
    """``phrase`` with its indefinite article.

    >>> article("ewe"), article("orange car"), article("aeroplane")
    ('a ewe', 'an orange car', 'an aeroplane')
    """
    vowel = phrase[0] in "aeiou" and not phrase.startswith(_A_BEFORE_VOWEL)
    return f"{'an' if vowel else 'a'} {phrase}"


def plural(noun: str) -> str:
    """Return the plural; in a noun with "on", "in", "of" or "with", the word before that is inflected.

    >>> plural("sheep"), plural("old woman"), plural("rider on a horse"), plural("puppy")
    ('sheep', 'old women', 'riders on horses', 'puppies')
    """
    for link in (" on a ", " in a "):
        head, found, tail = noun.partition(link)
        if found:
            return f"{plural(head)}{link.removesuffix('a ')}{plural(tail)}"
    for link in (" of ", " with "):
        head, found, tail = noun.partition(link)
        if found:
            return f"{plural(head)}{found}{tail}"
    first, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        return first + space + _IRREGULAR[last]
    if last.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if last.endswith("y") and last[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _main_phrase(rng: np.random.Generator, facts: SceneFacts, *, plain: bool = False) -> str:
    """Describe the main object: number, perhaps a size, a trait or its colour, and the noun."""
    # The first noun is the commonest, as it is in people's captions.
    noun = facts.nouns[0] if rng.random() < 0.35 else _pick(rng, facts.nouns)
    compound = " on a " in noun  # "a strong jockey on a horse" would praise the wrong one
    words = []
    if not plain:
        chance = rng.random()
        if facts.colour is not None and chance < 0.45:
            words.append(facts.colour)
        elif (traits := CLASS_FACTS[facts.label].traits) and chance < 0.57 and not compound:
            words.append(_pick(rng, traits))
        elif facts.large and chance < 0.68 and facts.label != "person" and not compound:
            words.append(_pick(rng, _SIZES))
    if facts.count > 1:
        return " ".join((_pick(rng, _NUMBERS[facts.count]), *words, plural(noun)))
    return article(" ".join((*words, noun)))


def _act(rng: np.random.Generator, facts: SceneFacts) -> str:
    if facts.airborne:
        return _pick(rng, CLASS_FACTS[facts.label].flight)
    if facts.acts:
        return _pick(rng, facts.acts)
    return _pick(rng, _HEADS if facts.head else CLASS_FACTS[facts.label].acts)


def write_captions(rng: np.random.Generator, facts: SceneFacts) -> tuple[str, ...]:
    """Five captions that differ from each other, of 16 words at most.

    Every one names the main object; number, colour, place, company and the small thing each
    appear in some.
    """
    templates = list(TEMPLATES["always"])
    if facts.large and facts.count == 1:
        templates += TEMPLATES["large"]
    if facts.company:
        templates += TEMPLATES["company"]
    if facts.distractor is not None:
        templates += TEMPLATES["distractor"]
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_SCENE:
        template = templates.pop(int(rng.random() * len(templates)))
        caption = _fill(rng, template, facts)
        if caption not in captions and caption.count(" ") < MAX_WORDS:
            captions.append(caption)
    return tuple(captions)


def _fill(rng: np.random.Generator, template: str, facts: SceneFacts) -> str:
    main = _main_phrase(rng, facts)
    where = _pick(rng, facts.place.phrases)
    company = article(_pick(rng, facts.company)) if facts.company else ""
    bare = _main_phrase(rng, facts, plain=True)
    return template.format(
        N=capitalized(main),
        n=main,
        h=capitalized(bare),
        g=_act(rng, facts),
        p=where,
        P=capitalized(where),
        c=company,
        d=article(facts.distractor) if facts.distractor is not None else "",
        # "A pair of sheep is", but "two sheep are".
        **{"is": "are" if facts.count > 1 and not main.startswith("a ") else "is"},
    )
