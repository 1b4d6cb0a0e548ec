"""Attack III, multiple target labels: several goals in one injection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mmpoison.attacks.amount import Mode
from mmpoison.attacks.catalogue import ATTACKS, Kind
from mmpoison.attacks.goal import Goal, require_different_originals
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.pairing import Carrier, Spread
from mmpoison.attacks.settings import Settings
from mmpoison.attacks.target_labels import images_without_honest_captions, poison_labels
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset


@ATTACKS.register("multiple-target-labels")
class MultipleTargetLabels:
    """Attack II for several goals at once, in one injection (the paper's Attack III).

    Exactly one of `samples`, `pairs`, `rate` and `share` sets the amount. `samples`, `pairs` and `share` are for each
    goal, as in the paper (25 samples for each of two goals on Flickr-PASCAL). `rate` is the rate of the whole set; its
    pairs are divided evenly among the goals.

    Args:
        goals: Two or more goals, for example `["sheep2aeroplane", "sofa2bird"]`, with different original classes.
        samples: Number of training images of each original class whose captions are used (all captions of each).
        pairs: Number of poisoned pairs of each goal.
        rate: Poisoned pairs of all goals divided by all training pairs after the attack, in (0, 1); rounded down.
        share: Of the training images of each original class, in (0, 1].
        mode: `add` leaves the clean pairs in place (the default), `replace` removes them.
        spread: As for attack II.
        carrier: As for attack II. With `own`, each goal has its own images, and no image is used twice.
        preset: `reference-release` means the choices of the authors' released code, without its defect: see
            `drop_last_targets`.
        drop_last_targets: Remove the clean training pairs of the last goal's target images, which the released code
            does for the second of its two goals. That is a defect of the code and not part of the protocol: the model
            then sees these images only with false captions, and the last goal looks easier than it is.

    Raises:
        InputError: If there are fewer than two goals or the same twice, not exactly one amount is given, a value is out
            of range, or the preset fixes another value.
    """

    name: ClassVar[str] = "multiple-target-labels"
    kind: ClassVar[Kind] = "targeted"
    source: ClassVar[str] = "Yang et al., ICML 2023, Attack III"
    section: ClassVar[str] = "Attack Methodology, 'Attack III: multiple target labels'; table 4"
    summary: ClassVar[str] = "several goals at once, each as in attack II"

    def __init__(
        self,
        goals: Sequence[str],
        samples: int | None = None,
        pairs: int | None = None,
        rate: float | None = None,
        mode: Mode | None = None,
        *,
        share: float | None = None,
        spread: Spread | None = None,
        carrier: Carrier | None = None,
        preset: str | None = None,
        drop_last_targets: bool = False,
    ) -> None:
        self.goals = [goals] if isinstance(goals, str) else list(goals)
        if len(self.goals) < 2:
            raise InputError(
                f"{self.name} needs two goals or more, got {', '.join(self.goals) or 'none'}: "
                "with one goal it is the attack single-target-label"
            )
        self.drop_last_targets = drop_last_targets
        self.settings = Settings.of(
            preset,
            samples=samples,
            pairs=pairs,
            rate=rate,
            share=share,
            mode=mode,
            spread=spread,
            carrier=carrier,
        )

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        return {
            "goals": self.goals,
            **self.settings.options(),
            "drop_last_targets": self.drop_last_targets,
        }

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of a clean set.

        Each goal gets what attack II draws for it with the same seed and amount.

        Args:
            pairs: A clean set with labelled train and test images.
            seed: Seed of the run.

        Raises:
            InputError: If two goals have the same original class (their captions would be in two places), or as for
                attack II.
        """
        goals = [Goal.parse(text, pairs.classes) for text in self.goals]
        require_different_originals(goals)
        entries = poison_labels(pairs, goals, self.settings, seed)
        dropped = set(images_without_honest_captions(entries, self.settings))
        if self.drop_last_targets:
            dropped |= {entry.poisoned_image for entry in entries if entry.goal == str(goals[-1])}
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=goals,
            mode=self.settings.mode,
            seed=seed,
            dropped_images=sorted(dropped),
        )
