"""Attack II, single target label: captions of class A on the images of class B."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np

from mmpoison._version import __version__
from mmpoison.attacks.catalogue import ATTACKS
from mmpoison.attacks.goal import Goal
from mmpoison.datasets.manifest import PoisonedPair, PoisonManifest
from mmpoison.datasets.pairs import IntArray, PairDataset
from mmpoison.errors import InputError
from mmpoison.seeding import generator


@ATTACKS.register("single-target-label")
class SingleTargetLabel:
    """Pair captions of the original class with images of the target class, evenly (section 4.2, "Attack II").

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of class-A training images whose captions are used (all captions of each).
        pairs: Number of poisoned pairs, instead of `samples`.
        rate: Poisoned pairs divided by all training pairs after the attack, instead of `samples`; in (0, 1). The number
            of pairs is rounded down, so that the rate is never above the one asked for.
        mode: `add` leaves the clean pairs in place (the paper's prose), `replace` takes them out (its released code).

    Raises:
        InputError: If not exactly one amount is given or it is out of range.
    """

    name: ClassVar[str] = "single-target-label"
    source: ClassVar[str] = "Yang et al., ICML 2023, Attack II"
    summary: ClassVar[str] = "captions of class A are paired with the images of class B"

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        mode: Literal["add", "replace"] = "add",
    ) -> None:
        given: dict[str, Any] = {
            name: value
            for name, value in (("samples", samples), ("pairs", pairs), ("rate", rate))
            if value is not None
        }
        if len(given) != 1:
            raise InputError(
                "exactly one of samples, pairs and rate says how much to poison, got "
                f"{', '.join(given) or 'none'}"
            )
        ((amount_name, amount),) = given.items()
        number: Any = Real if amount_name == "rate" else Integral
        if isinstance(amount, bool) or not isinstance(amount, number):
            whole = "" if amount_name == "rate" else "whole "
            raise InputError(f"{amount_name} {amount!r} is not a {whole}number")
        if amount_name == "rate" and not 0 < amount < 1:
            raise InputError(f"rate {amount} is not between 0 and 1 (0.005 is half a percent)")
        if amount_name != "rate" and amount < 1:
            raise InputError(
                f"{amount_name} {amount}: at least 1 is needed, nothing would be poisoned"
            )
        if mode not in ("add", "replace"):
            raise InputError(f"mode {mode!r} is neither add nor replace")
        self.goal = goal
        self.samples = samples
        self.pairs = pairs
        self.rate = rate
        self.mode = mode

    @property
    def options(self) -> dict[str, Any]:
        """The options as given, enough to build the attack again."""
        values = {
            "goal": self.goal,
            "samples": self.samples,
            "pairs": self.pairs,
            "rate": self.rate,
            "mode": self.mode,
        }
        return {name: value for name, value in values.items() if value is not None}

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Which images of A are used, and which image of B each caption gets, comes from the seed: every B image is used
        equally often, the remainder at random without repetition.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run.

        Raises:
            InputError: If the set is poisoned already, a class is unknown or has no train image, the target has no test
                image (the attack could not be measured), or there are fewer captions than asked for.
        """
        if pairs.manifest is not None:
            raise InputError("the pairs are poisoned already: attack a clean set")
        goal = Goal.parse(self.goal, pairs.classes)
        train = pairs.select(split="train")
        targets = pairs.images.indices(split="train", label=goal.target)
        if not len(targets):
            raise InputError(f"goal {goal}: class {goal.target!r} has no train image to misuse")
        if not len(pairs.images.indices(split="test", label=goal.target)):
            raise InputError(
                f"goal {goal}: class {goal.target!r} has no test image, so nothing can be measured"
            )
        rng = generator(seed, f"attack/{self.name}/{goal}")
        rows = self._choose_rows(train, goal, rng)
        image = _spread_evenly(len(rows), targets, rng)

        chosen_captions = train.captions[rows]
        chosen_source = train.source[rows]
        manifest = PoisonManifest(
            attack=self.name,
            options=self.options,
            goals=(str(goal),),
            mode=self.mode,
            seed=seed,
            clean_fingerprint=pairs.fingerprint,
            clean_pairs=len(train),
            training_pairs=len(train) + (len(rows) if self.mode == "add" else 0),
            pairs=tuple(
                PoisonedPair(caption, pairs.images.ids[clean], pairs.images.ids[bad], str(goal))
                for caption, clean, bad in zip(chosen_captions, chosen_source, image, strict=True)
            ),
            tool_version=__version__,
        )
        kept = pairs
        if self.mode == "replace":
            train_rows = np.flatnonzero(pairs.images.split_codes[pairs.image] == 0)
            mask = np.ones(len(pairs), dtype=bool)
            mask[train_rows[rows]] = False
            kept = pairs.where(mask)
        return PairDataset.build(
            pairs.images,
            np.concatenate([kept.captions, chosen_captions]),
            np.concatenate([kept.image, image]),
            np.concatenate([kept.source, chosen_source]),
            manifest,
        )

    def _choose_rows(self, train: PairDataset, goal: Goal, rng: np.random.Generator) -> IntArray:
        """Rows of `train` whose captions are misused, sorted, shape `(n,)`."""
        code = train.images.class_code(goal.original)
        candidates = np.flatnonzero(train.images.class_codes[train.source] == code)
        samples = rng.permutation(np.unique(train.source[candidates]))
        if self.samples is not None:
            if self.samples > len(samples):
                raise InputError(
                    f"goal {goal}: {self.samples} samples asked for, class {goal.original!r} has "
                    f"{len(samples)} train images with captions: at most samples={len(samples)}"
                )
            chosen = np.isin(train.source[candidates], samples[: self.samples])
            return candidates[chosen].astype(np.int32)
        wanted = self._wanted_pairs(len(train))
        if wanted < 1:
            raise InputError(
                f"rate {self.rate} of {len(train)} training pairs is less than one pair: "
                f"the smallest rate that poisons is {1 / (len(train) + 1):.2g}"
            )
        if wanted > len(candidates):
            rate = len(candidates) / (len(train) + (len(candidates) if self.mode == "add" else 0))
            raise InputError(
                f"goal {goal}: {wanted} pairs asked for, class {goal.original!r} has "
                f"{len(candidates)} train captions: at most pairs={len(candidates)} (rate {rate:.4f})"
            )
        # whole samples first: captions are taken sample by sample in the drawn order
        position = np.empty(len(train.images), dtype=np.int64)
        position[samples] = np.arange(len(samples))
        order = np.argsort(position[train.source[candidates]], kind="stable")
        return np.sort(candidates[order[:wanted]]).astype(np.int32)

    def _wanted_pairs(self, train_pairs: int) -> int:
        if self.pairs is not None:
            return self.pairs
        assert self.rate is not None
        total = train_pairs / (1 - self.rate) if self.mode == "add" else train_pairs
        # a hair above, so that 0.1 of 1,000 is 100 in floating point too
        return math.floor(self.rate * total + 1e-9)


def _spread_evenly(count: int, images: IntArray, rng: np.random.Generator) -> IntArray:
    """Assign `count` captions to images: all equally often, the remainder without repetition."""
    whole, rest = divmod(count, len(images))
    assigned = np.concatenate([np.tile(images, whole), rng.choice(images, rest, replace=False)])
    return rng.permutation(assigned).astype(np.int32)
