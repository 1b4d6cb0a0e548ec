"""Feature collision: images of class A that a surrogate takes for images of class B, with their true captions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mmpoison.attacks.adaptive import surrogate_name, surrogate_option
from mmpoison.attacks.amount import MOST, choose_captions
from mmpoison.attacks.catalogue import ATTACKS, Kind, ProgressFor
from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.optimised import embed_pixels, optimised, surrogate_note
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.sign_steps import collide
from mmpoison.attacks.surrogate import Surrogate, require_pixel_surrogate, unit
from mmpoison.attacks.target_labels import require_clean_set, target_images
from mmpoison.base.option_checks import check_whole
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonedPair
from mmpoison.pairs.poison_record import new_image
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("feature-collision")
class FeatureCollision:
    """Adds images of class A whose features under a surrogate are those of images of class B, with A's true captions.

    A person finds the captions of the new pairs true: each new image differs from an image of A by at most `epsilon`
    levels of 255. An encoder near to the surrogate sees an image of B, and learns that captions of A belong to images
    of B. In the publication's words A is the destination concept and B the original one.

    Each new image starts at random within the bound. Steps of the gradient's sign move it towards the surrogate's
    embedding of one training image of B. It has the size that the surrogate sees, and is a PNG, so that its pixels
    arrive as they were computed. The released code steps on features of a larger model, 4,000 times, and renames its
    PNG files to .jpg.

    Exactly one of `samples`, `pairs`, `rate` and `share` sets the amount.

    Args:
        goal: `A2B`, for example `sheep2aeroplane`.
        samples: Number of class-A training images that are copied and changed (all captions of each).
        pairs: Number of poisoned pairs.
        rate: Poisoned pairs divided by all training pairs after the attack, in (0, 1); rounded down.
        share: Class-A training images that are copied and changed, divided by all of them, in (0, 1].
        epsilon: Largest change of a pixel's value, in levels of 255.
        steps: Number of steps.
        encoder: Name of the surrogate; the manifest records it, and `poison` receives the model.

    Raises:
        InputError: If not exactly one amount is given or a value is out of range.
    """

    name: ClassVar[str] = "feature-collision"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = "Xu et al., Shadowcast, NeurIPS 2024"
    section: ClassVar[str] = "the label attack: destination concept A, original concept B"
    summary: ClassVar[str] = "images of class A, changed by 8/255 to have the features of class B"
    needs_pixels: ClassVar[bool] = True

    def __init__(
        self,
        goal: str,
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        *,
        share: float | None = None,
        epsilon: int = 8,
        steps: int = 500,
        encoder: str | None = None,
    ) -> None:
        self.goal = goal
        self.settings: Settings = Settings.of(
            None, samples=samples, pairs=pairs, rate=rate, share=share
        )
        self.epsilon = check_whole("epsilon", epsilon, 1, MOST)
        self.steps = check_whole("steps", steps, 1, MOST)
        if self.epsilon > 255:
            raise InputError(f"epsilon {epsilon}: a pixel has 255 levels above black, at most 255")
        self.encoder = surrogate_name(encoder)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goal": self.goal,
            **self.settings.amount.option,
            "epsilon": self.epsilon,
            "steps": self.steps,
            **surrogate_option(self.encoder),
        }

    def poison(
        self,
        pairs: PairDataset,
        seed: int = 0,
        *,
        embed: Surrogate | None = None,
        progress: ProgressFor | None = None,
    ) -> PairDataset:
        """Return a poisoned copy of a clean set; its manifest notes the cosines before and after.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run; draws the images of both classes and the starts.
            embed: The surrogate.
            progress: Gives a callback for (done, total) of a named step.

        Raises:
            InputError: If there is no surrogate whose image encoder is known; otherwise as attack II.
        """
        goal = Goal.parse(self.goal, pairs.classes)
        require_clean_set(pairs)
        surrogate = require_pixel_surrogate(embed, self.name)
        targets = target_images(pairs, goal)
        train = pairs.select(split="train")
        rng = generator(seed, f"attack/{self.name}/{goal}")
        (rows,) = choose_captions(train, [goal], self.settings.amount, "add", [rng])
        originals, copy = np.unique(train.source[rows], return_inverse=True)
        chosen = rng.choice(targets, len(originals), replace=len(originals) > len(targets))
        clean = surrogate.pixels(pairs, originals)
        wanted = unit(surrogate(pairs, chosen))
        changed = optimised(
            surrogate,
            self.name,
            lambda: collide(
                surrogate,
                clean,
                wanted,
                epsilon=self.epsilon,
                steps=self.steps,
                rng=generator(seed, f"attack/{self.name}/{goal}/start"),
                progress=progress(f"{self.name}: changing images") if progress else None,
            ),
            inputs=[clean, wanted],
            settings={"goal": str(goal), "seed": seed, **self.options},
            code=collide.__module__,
        )
        ids = [str(name) for name in pairs.images.ids[originals]]
        stored = [new_image(pixels, name) for pixels, name in zip(changed, ids, strict=True)]
        before, after = (
            float((embed_pixels(surrogate, pixels) * wanted).sum(axis=1).mean())
            for pixels in (clean, changed)
        )
        return poison_set(
            pairs,
            [
                PoisonedPair(str(caption), ids[place], stored[place][0], str(goal))
                for caption, place in zip(train.captions[rows], copy, strict=True)
            ],
            attack=self.name,
            options=self.options,
            goals=[goal],
            mode="add",
            seed=seed,
            added_images=dict(stored),
            notes=[
                surrogate_note(
                    surrogate,
                    f"mean cosine with images of {goal.target} {before:.3f} before, {after:.3f} after",
                )
            ],
        )
