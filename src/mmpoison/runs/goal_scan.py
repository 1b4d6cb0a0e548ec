"""A pre-training defence that needs the whole set at once: judge, write what is left, and say what was found."""

from __future__ import annotations

from pathlib import Path

from mmpoison.base.files import refuse_occupied, write_json
from mmpoison.datasets.catalogue import load_dataset
from mmpoison.defenses.catalogue import PairFilter
from mmpoison.defenses.filters.filtered_folder import save_filtered
from mmpoison.defenses.filters.pair_pieces import pairs_without
from mmpoison.defenses.filters.relevance_filter import FilterResult
from mmpoison.defenses.filters.suspicious_groups._defense import GroupResult, SuspiciousGroups
from mmpoison.defenses.filters.unreadable import Unreadable, absent, short_reasons
from mmpoison.errors import InputError
from mmpoison.images.file_states import absent_images
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PixelInputs, ProgressFor, prepare_pixels
from mmpoison.pairs.folder import ImagePolicy
from mmpoison.pairs.table import PairDataset
from mmpoison.runs.filter_set import REPORT_FOLDER

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
    result = filter_whole(
        data, encoder, out, defense, format=format, images=images, seed=seed, progress=progress
    )
    assert isinstance(result, GroupResult)
    return result


def filter_whole(
    data: str | Path,
    encoder: DualEncoder,
    out: Path,
    defense: PairFilter,
    *,
    format: str | None = None,
    images: ImagePolicy = "link",
    seed: int = 0,
    progress: ProgressFor | None = None,
) -> FilterResult:
    """Judge the training pairs of a set that fits into memory by any pre-training defence, and write what stays.

    An image that cannot be read is left out with its pairs, named in `unreadable.jsonl`, and the others are judged.

    Args:
        data: A data set's name, or pairs in any format.
        encoder: The judge.
        out: New folder: a pairs folder with `verdicts.jsonl`, `filter-report/filter.json`, and `suspected-goals.json`
            where the defence names goals.
        defense: The defence with its settings.
        format: Format of the data, where it is not recognised.
        images: As in `save_pairs`.
        seed: Seed of whatever is random in it.
        progress: Gives a progress callback for a named step.

    Raises:
        InputError: If the data cannot be read or have no training pair, no image of these can be read, or `out` holds
            something already.
    """
    refuse_occupied(out)
    pairs = load_dataset(str(data), format=format)
    judged = pairs.in_split("train")
    train = pairs.where(judged)
    if not len(train):
        raise InputError(f"{data}: split 'train' has no pairs to scan")
    inputs = prepare_pixels(encoder, train, broken="drop", progress=progress)
    unreadable = _unreadable(train, inputs)
    train = train.where(pairs_without(train, unreadable.reasons))
    if not len(train):
        raise unreadable.none_left("split 'train'")
    if images != "none":
        gone = absent_images(pairs.root, pairs.images.ids)
        unreadable = unreadable.plus(absent(gone, unreadable))
    result = defense.apply(train, encoder, inputs, seed=seed, progress=progress)
    facts = {
        "data": str(data),
        "method": defense.name,
        "encoder": encoder.name,
        **result.facts(train),
        **unreadable.facts(),
    }

    def report(folder: Path) -> None:
        write_json(folder / REPORT_FOLDER / "filter.json", facts)
        if isinstance(result, GroupResult):
            assert isinstance(defense, SuspiciousGroups)
            _write_goals(folder, result, defense)

    save_filtered(pairs, judged, result, out, unreadable=unreadable, images=images, also=report)
    return result


def _unreadable(train: PairDataset, inputs: PixelInputs) -> Unreadable:
    reasons = short_reasons(train.root, inputs.pixels.broken)
    lost = ~pairs_without(train, reasons)
    return Unreadable(
        len(train.used_images()),
        reasons,
        int(lost.sum()),
        int((lost & train.poisoned).sum()) if train.manifest is not None else None,
    )


def _write_goals(folder: Path, result: GroupResult, defense: SuspiciousGroups) -> None:
    value = {
        "false_alarms": defense.false_alarms,
        "goals": [goal.to_json() for goal in result.goals],
        "not_significant": [goal.to_json() for goal in result.unproven[:UNPROVEN]],
    }
    write_json(folder / GOALS_FILE, value)
