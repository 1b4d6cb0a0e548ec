"""The scan for suspected goals on a data set: judge, write what is left, and say what was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmpoison.datasets.catalogue import load_dataset
from mmpoison.datasets.pairs_folder import ImagePolicy
from mmpoison.defenses.filtered_folder import save_filtered
from mmpoison.defenses.suspicious_groups import GroupResult, SuspiciousGroups
from mmpoison.errors import InputError
from mmpoison.files import refuse_occupied, write_json
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import ProgressFor, prepare_pixels

GOALS_FILE = "suspected-goals.json"
UNPROVEN = 5


def scan_goals(
    data: str | Path,
    encoder: DualEncoder,
    out: Path,
    defense: SuspiciousGroups,
    *,
    format: str | None = None,
    images: ImagePolicy = "link",
    seed: int = 0,
    progress: ProgressFor | None = None,
) -> GroupResult:
    """Scan the training pairs of a set, and write the pairs that stay with `suspected-goals.json` beside them.

    Args:
        data: A data set's name, or pairs in any format.
        encoder: Tells captions from captions and images from images.
        out: New folder.
        defense: The scan with its settings.
        format: Format of the data, where it is not recognised.
        images: As in `save_pairs`.
        seed: Seed of the clusterings.
        progress: Gives a progress callback for a named step.

    Raises:
        InputError: If the data cannot be read or have no training pair, or `out` holds something already.
    """
    refuse_occupied(out)
    pairs = load_dataset(str(data), format=format)
    judged = np.asarray(pairs.images.split_codes[pairs.image] == 0)
    train = pairs.where(judged)
    if not len(train):
        raise InputError(f"{data}: split 'train' has no pairs to scan")
    inputs = prepare_pixels(encoder, train, progress=progress)
    result = defense.apply(train, encoder, inputs, seed=seed, progress=progress)
    save_filtered(pairs, judged, result, out, images=images, also=_write_goals(result, defense))
    return result


def _write_goals(result: GroupResult, defense: SuspiciousGroups) -> Callable[[Path], None]:
    value = {
        "false_alarms": defense.false_alarms,
        "goals": [goal.to_json() for goal in result.goals],
        "not_significant": [goal.to_json() for goal in result.unproven[:UNPROVEN]],
    }
    return lambda folder: write_json(folder / GOALS_FILE, value)
