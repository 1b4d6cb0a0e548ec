"""Nearest assignment: captions of class A get the images of class B that a surrogate finds most like them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mmpoison.attacks.adaptive import (
    SECTION,
    SOURCE,
    adaptive_options,
    adaptive_settings,
    surrogate_name,
    surrogate_option,
)
from mmpoison.attacks.amount import choose_captions
from mmpoison.attacks.candidates import draw_candidates
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set, poisoned_pairs
from mmpoison.attacks.matching import Matching
from mmpoison.attacks.pairing import Carrier
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.surrogate import Surrogate, require_surrogate
from mmpoison.attacks.target_labels import (
    images_without_honest_captions,
    require_clean_set,
    target_images,
)
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("nearest-assigned")
class NearestAssigned:
    """Pairs captions of A with images of B so that the pairs look as true as possible to a surrogate.

    Against filters that ask whether a caption matches its image, or images like it. The attacker compares captions of A
    with images of B. He assigns them with the largest sum of cosines (`scipy.optimize.linear_sum_assignment`), each
    image equally many captions at most. He leaves out pairs whose conflict is over that of a share `unseen` of the
    clean pairs. So there may be fewer pairs than requested; the manifest's notes say it. Choose a B near to A: see
    `nearest_classes`.

    Exactly one of `samples`, `pairs` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: As many captions as that many class-A training images have.
        pairs: Number of poisoned pairs.
        share: As many captions as that share of the class-A training images has, in (0, 1].
        unseen: Share of the clean pairs in (0, 1] whose conflict no false pair exceeds; 1 leaves no pair out.
        encoder: Name of the surrogate; the manifest records it, and `poison` receives the embeddings.
        carrier: `own` (the default): as many images of B as images of A would be used by attack II, those nearest to
            the captions, lose their honest captions. `existing`: any training image of B, and it keeps them.

    Raises:
        InputError: If not exactly one amount is given or a value is out of range.
    """

    name: ClassVar[str] = "nearest-assigned"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = SOURCE
    section: ClassVar[str] = SECTION
    summary: ClassVar[str] = "captions of class A on the images of class B that match them best"
    needs_embeddings: ClassVar[bool] = True

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        *,
        share: float | None = None,
        unseen: float = 0.8,
        encoder: str | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self.goal = goal
        self.settings: Settings = adaptive_settings(
            samples=samples, pairs=pairs, share=share, carrier=carrier
        )
        if isinstance(unseen, bool) or not isinstance(unseen, int | float) or not 0 < unseen <= 1:
            raise InputError(f"unseen {unseen!r:.40} is not over 0 and at most 1")
        self.unseen = float(unseen)
        self.encoder = surrogate_name(encoder)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goal": self.goal,
            **adaptive_options(self.settings, "spread"),
            "unseen": self.unseen,
            **surrogate_option(self.encoder),
        }

    def poison(
        self, pairs: PairDataset, seed: int = 0, *, embed: Surrogate | None = None
    ) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run; draws the images that the attacker chooses among.
            embed: The surrogate.

        Raises:
            InputError: If there is no surrogate, as for attack II, or if it expects every pair to be seen.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        require_clean_set(pairs)
        surrogate = require_surrogate(embed, self.name)
        targets = target_images(pairs, goal)
        train = pairs.select(split="train")
        rng = generator(seed, f"attack/{self.name}/{goal}")
        (asked,) = choose_captions(train, [goal], self.settings.amount, "add", [rng])
        used = len(np.unique(train.source[asked]))
        rows, images = draw_candidates(train, goal, targets, used, self.settings.carrier, rng)
        matching = Matching(train, surrogate, seed)
        cosine = matching.captions([str(c) for c in train.captions[rows]]) @ (
            matching.images(images).T
        )
        if self.settings.carrier == "own":
            # by the captions that each image would get of
            top = -np.partition(-cosine, min(len(asked), len(rows)) - 1, axis=0)[: len(asked)]
            best = np.argsort(-top.mean(axis=0), kind="stable")[:used]
            images, cosine = images[best], cosine[:, best]
        least = 1 - matching.usual_conflict(self.unseen) if self.unseen < 1 else -np.inf
        caption, image = assign(cosine, math.ceil(len(asked) / len(images)), least)
        if not len(caption):
            raise InputError(
                f"goal {goal}: the surrogate expects every pair to be seen (conflict over that of {self.unseen:.0%} of "
                "the clean pairs): choose a target class nearer to the original class, or a larger unseen"
            )
        order = np.argsort(-cosine[caption, image], kind="stable")[: len(asked)]
        caption, image = caption[order], image[order]
        entries = poisoned_pairs(train, rows[caption], images[image], goal)
        few = f"{len(entries)} pairs of {len(asked)} requested: the surrogate expects the others to be seen"
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode="add",
            seed=seed,
            dropped_images=images_without_honest_captions(entries, self.settings),
            notes=[few] if len(entries) < len(asked) else [],
        )


def assign(
    cosine: npt.NDArray[np.float32], load: int, least: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Assign captions to images with the largest sum of cosines, as many pairs as possible.

    Args:
        cosine: Captions by images, shape `(n, m)`.
        load: Captions of an image, at most.
        least: Pairs with a smaller cosine are left out.

    Returns:
        The captions and the image of each, shape `(k,)`, sorted by caption.

    >>> caption, image = assign(np.float32([[0.9, 0.8], [0.8, 0.1], [0.0, 0.1]]), 1, 0.2)
    >>> caption.tolist(), image.tolist()
    ([0, 1], [1, 0])
    """
    # scipy.optimize takes long to import, and all attacks are imported to find one
    from scipy.optimize import linear_sum_assignment

    slot = np.repeat(np.arange(cosine.shape[1]), load)
    # more than all cosines together can differ
    seen = 2.0 * min(len(cosine), len(slot)) + 1
    cost = np.where(cosine >= least, -cosine, seen)[:, slot]
    caption, place = linear_sum_assignment(cost)
    kept = cost[caption, place] < seen
    return caption[kept], slot[place[kept]]
