"""Measures a backdoor with its trigger: the target images of the gallery carry it, all else is as without."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmpoison.base.seeding import generator
from mmpoison.evaluation.goal_target import GoalTarget
from mmpoison.evaluation.rows import row_of_texts
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.images.triggers import Trigger, prepared_with_trigger
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import embed_pixels
from mmpoison.records.run_files import GoalRow


def triggered_targets(
    test: TestSet,
    goal_target: GoalTarget,
    trigger: Trigger,
    preparation: Preparation,
    *,
    seed: int = 0,
) -> Pixels:
    """Make the target images with the trigger, in memory: nothing is written.

    Args:
        test: The test part, with its image files.
        goal_target: The goal and its target set.
        trigger: The trigger of the attack.
        preparation: How the model sees images.
        seed: Draws what differs from image to image, such as a random place.

    Returns:
        RGB in the order of the gallery, shape `(targets, size, size, 3)`.

    Raises:
        BrokenImage: If an image cannot be read.
    """
    rng = generator(seed, f"evaluation/trigger/{goal_target}")
    images = test.gallery[test.target_set(goal_target)]
    ids = [str(test.pairs.images.ids[index]) for index in images]
    return np.stack(
        [
            prepared_with_trigger(test.pairs.root, name, trigger, trigger.draw(rng), preparation)
            for name in ids
        ]
    )


def triggered_success(
    encoder: DualEncoder,
    embeddings: TestEmbeddings,
    test: TestSet,
    goal_target: GoalTarget,
    trigger: Trigger,
    *,
    seed: int = 0,
    targets: Pixels | None = None,
) -> GoalRow:
    """Measure how well captions of the original class retrieve the target images that carry the trigger.

    Args:
        encoder: The model.
        embeddings: Its embeddings of the test part as it is.
        test: The test part, with its image files.
        goal_target: The goal and its target set.
        trigger: The trigger of the attack, `read_trigger(manifest.trigger)`.
        seed: As for `triggered_targets`.
        targets: What `triggered_targets` gave for the preparation of the encoder; made by default.

    Returns:
        The row, as without the trigger: compare the two.

    Raises:
        BrokenImage: If an image cannot be read.
    """
    if targets is None:
        targets = triggered_targets(test, goal_target, trigger, encoder.preparation, seed=seed)
    mask = test.target_set(goal_target)
    images = embeddings.images.copy()
    images[mask] = embed_pixels(encoder, targets)
    return row_of_texts(embeddings.texts[test.queries(goal_target.goal.original)], images, mask)


def rows_with_trigger(
    models: Mapping[str, tuple[DualEncoder, TestEmbeddings]],
    test: TestSet,
    goal_target: GoalTarget,
    trigger: Trigger,
    *,
    seed: int,
) -> dict[str, GoalRow]:
    """Compute `triggered_success` of several models on the same triggered images.

    Args:
        models: By name, a model and its embeddings of the test part.
        test: The test part.
        goal_target: The goal and its target set.
        trigger: The trigger of the attack.
        seed: As for `triggered_targets`.
    """
    made: dict[Preparation, Pixels] = {}
    rows: dict[str, GoalRow] = {}
    for name, (encoder, embeddings) in models.items():
        preparation = encoder.preparation
        if preparation not in made:
            made[preparation] = triggered_targets(
                test, goal_target, trigger, preparation, seed=seed
            )
        rows[name] = triggered_success(
            encoder, embeddings, test, goal_target, trigger, targets=made[preparation]
        )
    return rows
