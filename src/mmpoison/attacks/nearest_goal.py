"""Nearest goal: the most typical captions of class A on the most typical images of a class B near to A."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.adaptive import surrogate_name, surrogate_option
from mmpoison.attacks.amount import choose_captions
from mmpoison.attacks.candidates import draw_candidates, most_like
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal, original_of_auto
from mmpoison.attacks.injection import poison_set, poisoned_pairs
from mmpoison.attacks.matching import Matching
from mmpoison.attacks.pairing import Carrier
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.surrogate import (
    Surrogate,
    Vectors,
    nearest_classes,
    require_surrogate,
    unit,
)
from mmpoison.attacks.target_labels import (
    images_without_honest_captions,
    require_clean_set,
    target_images,
)
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

Places = npt.NDArray[np.intp]


@ATTACKS.register("nearest-goal")
class NearestGoal:
    """Pairs the captions nearest to the mean of class A with the images nearest to the mean of class B.

    With the goal `A2auto` the attack chooses B: the class whose captions have the mean nearest to that of A, see
    `nearest_classes`. Every other class counts, as an image has one label. The manifest's goal is the chosen one.

    The attacker knows 80% of the images of a class, drawn from the seed. Of the captions of A that he knows he keeps as
    many as attack II would use, of the images of B as many as images of A attack II would use, each time those with the
    largest cosine to their mean. A caption that several images have is used again only after all others. He pairs the
    caption and the image with the largest cosine first, and each image carries equally many captions (or one more).

    Exactly one of `samples`, `pairs` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`, or `A2auto`.
        samples: As many captions as that many class-A training images have.
        pairs: Number of poisoned pairs.
        share: As many captions as that share of the class-A training images has, in (0, 1].
        encoder: Name of the surrogate; the manifest records it, and `poison` receives the embeddings.
        carrier: `existing` (the default): the images of B keep their honest captions, and he knows all of them; `own`:
            they lose them.

    Raises:
        InputError: If not exactly one amount is given or a value is out of range.
    """

    name: ClassVar[str] = "nearest-goal"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = "mmpoison, after the idea of MP-Nav (Zhang et al., ICML 2025)"
    section: ClassVar[str] = "docs/tasks/other-attacks.md, 'Attacks that choose captions'"
    summary: ClassVar[str] = "typical captions of class A on typical images of a class near to it"
    needs_embeddings: ClassVar[bool] = True

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        *,
        share: float | None = None,
        encoder: str | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.goal = goal
        self.settings: Settings = Settings.of(
            None, samples=samples, pairs=pairs, share=share, carrier=carrier
        )
        self.encoder = surrogate_name(encoder)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goal": self.goal,
            **self.settings.options(without=["mode", "spread"]),
            **surrogate_option(self.encoder),
        }

    def poison(
        self, pairs: PairDataset, seed: int = 0, *, embed: Surrogate | None = None
    ) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run; draws what the attacker knows.
            embed: The surrogate.

        Raises:
            InputError: As for attack II, if there is no surrogate, or if no class can be the target of `A2auto`.
        """
        require_clean_set(pairs)
        original = original_of_auto(self.goal, pairs.classes)
        if original is None:
            goal, notes = Goal.parse(self.goal, pairs.classes), []
            surrogate = require_surrogate(embed, self.name)
        else:
            surrogate = require_surrogate(embed, self.name)
            goal = _nearest_goal(pairs, original, surrogate)
            notes = [
                f"goal {self.goal}: the target class is {goal.target!r}, the nearest by the means of captions"
            ]
        targets = target_images(pairs, goal)
        train = pairs.select(split="train")
        rng = generator(seed, f"attack/{self.name}/{goal}")
        (asked,) = choose_captions(train, [goal], self.settings.amount, "add", [rng])
        used = len(np.unique(train.source[asked]))
        rows, images = draw_candidates(train, goal, targets, used, self.settings.carrier, rng)
        matching = Matching(train, surrogate, seed)
        captions = [str(caption) for caption in train.captions[rows]]
        text, shown = matching.captions(captions), matching.images(images)
        kept = most_like(captions, _likeness(text))[: len(asked)]
        carriers = np.argsort(-_likeness(shown), kind="stable")[:used]
        caption, image = pair_greedily(text[kept] @ shown[carriers].T)
        entries = poisoned_pairs(train, rows[kept[caption]], images[carriers[image]], goal)
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode="add",
            seed=seed,
            dropped_images=images_without_honest_captions(entries, self.settings),
            notes=notes,
        )


def _nearest_goal(pairs: PairDataset, original: str, embed: Surrogate) -> Goal:
    """Choose the class nearest to A by captions, among those that can be a target."""
    ranked = nearest_classes(pairs, embed, len(pairs.classes), by="captions")
    for name in ranked.get(original, ()):
        if all(len(pairs.images.indices(split=split, label=name)) for split in ("train", "test")):
            return Goal(original, name)
    raise InputError(
        f"goal {original}2auto: no target class can be chosen, it needs captions of {original!r} and a second class "
        "with captions and with train and test images"
    )


def _likeness(vectors: Vectors) -> Vectors:
    """Return the cosine of unit vectors with their mean, shape `(n,)`."""
    likeness: Vectors = vectors @ unit(vectors.mean(axis=0))
    return likeness


def pair_greedily(cosine: npt.NDArray[np.float32]) -> tuple[Places, Places]:
    """Pair each caption with an image, the largest cosine first, with images used equally often.

    Args:
        cosine: Captions by images, shape `(n, m)`.

    Returns:
        The captions and the image of each, shape `(n,)`, in the order of choice: each image has `n // m` captions, and
        `n % m` images have one more.

    >>> caption, image = pair_greedily(np.float32([[0.9, 0.8], [0.8, 0.1], [0.7, 0.1]]))
    >>> caption.tolist(), image.tolist()
    ([0, 1, 2], [0, 0, 1])
    """
    captions, images = cosine.shape
    load, more = divmod(captions, images)
    free = np.ones(captions, dtype=bool)
    carried = np.zeros(images, dtype=np.intp)
    pairs: list[tuple[int, int]] = []
    for place in np.argsort(-cosine, axis=None, kind="stable").tolist():
        caption, image = divmod(place, images)
        if not free[caption] or carried[image] > load or (carried[image] == load and not more):
            continue
        more -= int(carried[image] == load)
        carried[image] += 1
        free[caption] = False
        pairs.append((caption, image))
    found = np.array(pairs, dtype=np.intp)
    return found[:, 0], found[:, 1]
