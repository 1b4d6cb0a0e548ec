"""Both names: a caption of class A that also names what the image of class B shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from mmpoison.attacks.adaptive import (
    SECTION,
    SOURCE,
    adaptive_options,
    adaptive_settings,
    surrogate_name,
    surrogate_option,
)
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.noun_phrase import noun_phrase
from mmpoison.attacks.pairing import Carrier, Spread
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.surrogate import Surrogate, require_surrogate, unit
from mmpoison.attacks.target_labels import images_without_honest_captions, poison_labels
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonedPair
from mmpoison.pairs.table import PairDataset

CONNECTORS = ("next to", "near", "with", "behind", "in front of", "and", "close to", "along with")

Connector = Literal["random", "nearest"]


@ATTACKS.register("both-names")
class BothNames:
    """Attack II with captions that name both: a caption of A, a connector, and what a true caption of the image names.

    Against filters that compare a caption with its image: half of the caption is true. For example "a sheep in a field
    next to a white plane". Attack II chooses captions and images; the true caption is drawn from those of the image.
    The goal is measured with plain captions of A.

    Exactly one of `samples`, `pairs` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of class-A training images whose captions are used (all captions of each).
        pairs: Number of poisoned pairs.
        share: Class-A training images whose captions are used, divided by all of them, in (0, 1].
        connector: `random` (the default) draws one of eight connectors for each caption; `nearest` takes the one whose
            sentence has the largest cosine with the true caption under a surrogate.
        encoder: Name of the surrogate for `nearest`; the manifest records it, and `poison` receives the embeddings.
        spread: As for attack II.
        carrier: `own` (the default) or `existing`, as for attack II.

    Raises:
        InputError: If not exactly one amount is given or a value is out of range.
    """

    name: ClassVar[str] = "both-names"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = SOURCE
    section: ClassVar[str] = SECTION
    summary: ClassVar[str] = "captions that name class A and what the image of class B shows"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        *,
        share: float | None = None,
        connector: Connector = "random",
        encoder: str | None = None,
        spread: Spread | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.goal = goal
        self.settings: Settings = adaptive_settings(
            samples=samples, pairs=pairs, share=share, spread=spread, carrier=carrier
        )
        if connector not in get_args(Connector):
            raise InputError(f"connector {connector!r} is neither random nor nearest")
        if encoder is not None and connector != "nearest":
            raise InputError(f"encoder {encoder!r} is for connector 'nearest', not {connector!r}")
        self.connector: Connector = connector
        self.encoder = surrogate_name(encoder)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goal": self.goal,
            **adaptive_options(self.settings),
            "connector": self.connector,
            **surrogate_option(self.encoder),
        }

    @property
    def needs_embeddings(self) -> bool:
        """Whether `poison` must be given a surrogate."""
        return self.connector == "nearest"

    def poison(
        self, pairs: PairDataset, seed: int = 0, *, embed: Surrogate | None = None
    ) -> PairDataset:
        """Return a poisoned copy of a clean set, with the captions and images of attack II with the same seed.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run.
            embed: For `nearest`: embeds the new sentences and the true captions.

        Raises:
            InputError: As for attack II, or if `nearest` has no surrogate.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        entries = poison_labels(pairs, [goal], self.settings, seed)
        rng = generator(seed, f"attack/{self.name}/{goal}")
        true = _true_captions(pairs, entries, rng)
        choices = [
            [both_names(entry.caption, connector, caption) for connector in CONNECTORS]
            for entry, caption in zip(entries, true, strict=True)
        ]
        if self.connector == "nearest":
            best = _nearest(choices, true, require_surrogate(embed, self.name))
        else:
            best = rng.integers(len(CONNECTORS), size=len(entries)).tolist()
        return poison_set(
            pairs,
            [
                replace(entry, caption=texts[place])
                for entry, texts, place in zip(entries, choices, best, strict=True)
            ],
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode="add",
            seed=seed,
            dropped_images=images_without_honest_captions(entries, self.settings),
        )


def both_names(caption: str, connector: str, true: str) -> str:
    """Join a caption with what another one names.

    >>> both_names("A sheep in a field.", "next to", "A white plane is parked on the runway.")
    'A sheep in a field next to a white plane.'
    """
    text = caption.rstrip()
    stripped = text.rstrip(" .!?")
    return f"{stripped} {connector} {noun_phrase(true)}{text[len(stripped) :]}"


def _true_captions(
    pairs: PairDataset, entries: Sequence[PoisonedPair], rng: np.random.Generator
) -> list[str]:
    """Draw a true caption of the false image of each pair; an empty text where the image has none."""
    train = pairs.select(split="train")
    captions: dict[str, list[str]] = {entry.poisoned_image: [] for entry in entries}
    for image_id, caption in zip(train.images.ids[train.image], train.captions, strict=True):
        if image_id in captions:
            captions[image_id].append(str(caption))
    drawn: list[str] = []
    for entry in entries:
        true = captions[entry.poisoned_image]
        drawn.append(true[int(rng.integers(len(true)))] if true else "")
    return drawn


def _nearest(choices: list[list[str]], true: list[str], embed: Surrogate) -> list[int]:
    sentences = unit(embed.captions([text for texts in choices for text in texts]))
    vectors = unit(embed.captions(true))
    cosine = np.einsum("ncd,nd->nc", sentences.reshape(len(true), len(CONNECTORS), -1), vectors)
    return [int(place) for place in cosine.argmax(axis=1)]
