"""Toxic text: the captions most like class A under a surrogate, rewritten by synonyms, on images of class B."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from mmpoison.attacks.adaptive import surrogate_name, surrogate_option
from mmpoison.attacks.amount import captions_of, choose_captions
from mmpoison.attacks.candidates import most_like, require_own_images
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set, poisoned_pairs
from mmpoison.attacks.pairing import Carrier, spread_evenly
from mmpoison.attacks.rewriting import class_names, naming_words, rewrite
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.surrogate import Surrogate, Vectors, require_surrogate, unit
from mmpoison.attacks.target_image import RANDOM, choose_target_image
from mmpoison.attacks.target_labels import (
    images_without_honest_captions,
    require_clean_set,
    target_images,
)
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.table import IntArray, PairDataset

PAIRS = 35
TRIES = 10
"""Rewritten versions of a caption that are drawn, of which the first good one is kept."""

_TEMPLATES = "clip_templates.txt"

ToxicSpread = Literal["one-image", "captions"]


@ATTACKS.register("toxic-text")
class ToxicText:
    """Pairs captions that are most like a class A, with words replaced by synonyms, with images of class B.

    A is described by the mean vector of CLIP's 80 templates with its label, such as "a photo of a sheep". The attack
    takes the training captions of A with the largest cosine to it, and the same caption again only after all others.
    Ten rewritten versions of each are drawn: a word that is in a small table of synonyms is replaced with the
    probability `synonym_rate`, but never a word that names A. The first version whose cosine is not smaller is kept. If
    there is none, the caption stays as it was.

    The publication generates text with a language model that it trains; this attack has its choice of captions, and
    synonyms instead. At most one of `samples`, `pairs` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: As many captions as that many class-A training images have.
        pairs: Number of poisoned pairs; 35 if no amount is given.
        share: As many captions as that share of the class-A training images has, in (0, 1].
        synonym_rate: Probability in [0, 1] with which a word is replaced; 0 changes no caption.
        spread: `one-image` (the default): all captions go to one test image of B, drawn at random, as in attack I;
            `captions`: they are distributed over training images of B evenly, as in attack II.
        encoder: Name of the surrogate; the manifest records it, and `poison` receives the embeddings.
        carrier: For `captions`: `existing` (the default) or `own`, as for attack II.

    Raises:
        InputError: If several amounts are given, a value is out of range, or the carrier is `own` for one image.
    """

    name: ClassVar[str] = "toxic-text"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = "Yao et al., NeurIPS 2025, ToxicTextCLIP"
    section: ClassVar[str] = "its choice of captions; synonyms in place of its text generator"
    summary: ClassVar[str] = "the captions most like class A, with synonyms, on images of class B"
    needs_embeddings: ClassVar[bool] = True

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        *,
        share: float | None = None,
        synonym_rate: float = 0.1,
        spread: ToxicSpread = "one-image",
        encoder: str | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.goal = goal
        if samples is None and pairs is None and share is None:
            pairs = PAIRS
        self.settings: Settings = Settings.of(
            None, samples=samples, pairs=pairs, share=share, carrier=carrier
        )
        number = not isinstance(synonym_rate, bool) and isinstance(synonym_rate, int | float)
        if not number or not 0 <= synonym_rate <= 1:
            raise InputError(f"synonym_rate {synonym_rate!r:.40} is not from 0 to 1")
        self.synonym_rate = float(synonym_rate)
        if spread not in get_args(ToxicSpread):
            raise InputError(
                f"spread {spread!r:.40} is neither {' nor '.join(get_args(ToxicSpread))}"
            )
        self.spread: ToxicSpread = spread
        if spread == "one-image" and self.settings.carrier == "own":
            raise InputError(
                f"attack {self.name!r}: carrier 'own' changes nothing for spread 'one-image', because no training pair "
                "shows that image with an honest caption: leave it out, or choose spread 'captions'"
            )
        self.encoder = surrogate_name(encoder)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goal": self.goal,
            **self.settings.options(without=["mode", "spread"]),
            "synonym_rate": self.synonym_rate,
            "spread": self.spread,
            **surrogate_option(self.encoder),
        }

    def poison(
        self, pairs: PairDataset, seed: int = 0, *, embed: Surrogate | None = None
    ) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run; draws synonyms and images.
            embed: The surrogate; it embeds templates and new captions too.

        Raises:
            InputError: As for attack II, or if there is no surrogate.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        require_clean_set(pairs)
        surrogate = require_surrogate(embed, self.name)
        train = pairs.select(split="train")
        rng = generator(seed, f"attack/{self.name}/{goal}")
        (asked,) = choose_captions(train, [goal], self.settings.amount, "add", [rng])
        target = None
        if self.spread == "one-image":
            target = choose_target_image(pairs, goal, RANDOM, rng)
            image = np.full(len(asked), target, dtype=np.int32)
        else:
            image = self._spread(train, goal, target_images(pairs, goal), asked, rng)
        rows = captions_of(train, goal)
        every = [str(caption) for caption in train.captions[rows]]
        chosen = most_like(every, _likeness(every, goal, surrogate))[: len(asked)]
        rows, captions = rows[chosen], [every[place] for place in chosen]
        new = self._rewritten(captions, goal, surrogate, rng)
        entries = [
            replace(entry, caption=caption)
            for entry, caption in zip(poisoned_pairs(train, rows, image, goal), new, strict=True)
        ]
        changed = sum(caption != old for caption, old in zip(new, captions, strict=True))
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode="add",
            seed=seed,
            target_images={} if target is None else {str(goal): str(pairs.images.ids[target])},
            dropped_images=images_without_honest_captions(entries, self.settings),
            notes=[f"{changed} of {len(new)} captions are rewritten by synonyms"],
        )

    def _spread(
        self,
        train: PairDataset,
        goal: Goal,
        targets: IntArray,
        asked: IntArray,
        rng: np.random.Generator,
    ) -> IntArray:
        """Give each caption a training image of B."""
        if self.settings.carrier == "own":
            used = len(np.unique(train.source[asked]))
            require_own_images(goal, targets, used)
            targets = rng.permutation(targets)[:used]
        return spread_evenly(asked, targets, "captions", rng)

    def _rewritten(
        self, captions: list[str], goal: Goal, embed: Surrogate, rng: np.random.Generator
    ) -> list[str]:
        """Return each caption's first good version, or the caption."""
        names = class_names(goal.original)
        versions: list[list[str]] = []
        for caption in captions:
            kept = naming_words(caption, names)
            drawn = [rewrite(caption, rng, self.synonym_rate, kept) for _ in range(TRIES)]
            versions.append([text for text in dict.fromkeys(drawn) if text != caption])
        texts = list(dict.fromkeys([*captions, *(text for own in versions for text in own)]))
        likeness = dict(zip(texts, _likeness(texts, goal, embed).tolist(), strict=True))
        return [
            next((text for text in own if likeness[text] >= likeness[caption]), caption)
            for caption, own in zip(captions, versions, strict=True)
        ]


def templates() -> tuple[str, ...]:
    """Return the 80 templates with which CLIP describes a class of ImageNet, with `{}` for its name."""
    text = resources.files("mmpoison.attacks").joinpath(_TEMPLATES).read_text("utf-8")
    return tuple(text.splitlines())


def _likeness(captions: list[str], goal: Goal, embed: Surrogate) -> Vectors:
    """Return the cosine of each caption with the mean vector of the templates of A, shape `(n,)`."""
    name = goal.original.replace("_", " ")
    described = embed.captions([template.format(name) for template in templates()])
    likeness: Vectors = unit(embed.captions(captions)) @ unit(unit(described).mean(axis=0))
    return likeness
