"""An aim: a goal and the images that it is to bring up."""

from __future__ import annotations

from dataclasses import dataclass

from mmpoison.attacks.goal import Goal
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset


@dataclass(frozen=True)
class Aim:
    """What is measured for one goal.

    Attributes:
        goal: Whose captions search, and which class they are to find.
        image: Path of the one target image (attack I); None where every test image of the target class is one
            (attacks II and III).
    """

    goal: Goal
    image: str | None = None

    def __str__(self) -> str:
        return str(self.goal)


def aims_of(manifest: PoisonManifest, pairs: PairDataset) -> tuple[Aim, ...]:
    """What a poisoned set is to be measured by: each of its goals, with its one target image for attack I.

    Args:
        manifest: The manifest of the poisoned set.
        pairs: The data, for their classes.

    Raises:
        InputError: If a goal does not fit the data.
    """
    images = manifest.target_images
    return tuple(Aim(Goal.parse(goal, pairs.classes), images.get(goal)) for goal in manifest.goals)
