"""`GoalTarget`: a goal and its target set, the images that its captions shall retrieve."""

from __future__ import annotations

from dataclasses import dataclass

from mmpoison.attacks.goal import Goal
from mmpoison.pairs.manifest import PoisonManifest
from mmpoison.pairs.table import PairDataset


@dataclass(frozen=True)
class GoalTarget:
    """A goal and its target set.

    Attributes:
        goal: Captions of its original class are the queries.
        image: Path of the one target image (attack I); None where every test image of the target class is one
            (attacks II and III).
    """

    goal: Goal
    image: str | None = None

    def __str__(self) -> str:
        return str(self.goal)


def goal_targets_of(manifest: PoisonManifest, pairs: PairDataset) -> tuple[GoalTarget, ...]:
    """List the goals of a poisoned set, each with its one target image for attack I.

    Args:
        manifest: The manifest of the poisoned set.
        pairs: The data, for their classes.

    Raises:
        InputError: If a goal does not match the data.
    """
    images = manifest.target_images
    return tuple(
        GoalTarget(Goal.parse(goal, pairs.classes), images.get(goal)) for goal in manifest.goals
    )
