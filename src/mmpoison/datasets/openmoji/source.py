"""Registers `openmoji`, the embedded data set: scenes drawn on this machine and cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from mmpoison.base.code_version import code_version
from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.files import refuse_occupied
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.openmoji.build import (
    ATTRIBUTION,
    SceneOptions,
    build_openmoji,
    scene_numbers,
)
from mmpoison.datasets.options import whole_number
from mmpoison.pairs.folder import load_pairs_folder, save_pairs
from mmpoison.pairs.splits import balanced, subset_per_class
from mmpoison.pairs.table import PairDataset

KIND, SCENES = "data/openmoji", "scenes"

Progress = Callable[[int, int], None]


def load_openmoji(
    root: Path | None,
    seed: int = 0,
    *,
    progress: Progress | None = None,
    train_share: float = 1.0,
    **options: Unpack[SceneOptions],
) -> PairDataset:
    """Load the scenes of a seed; draw them first where they are not cached yet.

    Args:
        root: A folder built before, or None for the cache folder.
        seed: Seed of the scenes.
        progress: Called with (done, total) while scenes are drawn.
        train_share: Share of the training images of each class, and of those without a label, that are used, in (0, 1];
            test and clean images stay.
        **options: Which scenes, see `SceneOptions`.
    """
    if train_share != 1:
        whole = load_openmoji(root, seed, progress=progress, **options)
        return subset_per_class(whole, train_share, seed)
    if root is not None:
        return load_pairs_folder(root)
    numbers = scene_numbers(seed, options)
    key = CacheKey(
        KIND, {"computed": code_version(build_openmoji), **numbers}, "openmoji scenes", numbers
    )

    def draw(folder: Path) -> None:
        if not (folder / SCENES).is_dir():  # else it was killed after the last picture
            build_openmoji(folder / SCENES, seed=seed, progress=progress, **options)

    return ContentCache().obtain(key, lambda folder: load_pairs_folder(folder / SCENES), draw)[0]


def load_balanced_openmoji(
    root: Path | None,
    seed: int = 0,
    *,
    caption_seed: int = 0,
    progress: Progress | None = None,
    **options: Unpack[SceneOptions],
) -> PairDataset:
    """Load the scenes with one random caption for each image (the paper's balanced sets, "-b").

    Args:
        root: As for `load_openmoji`, like all others but `caption_seed`.
        seed: Seed of the scenes.
        caption_seed: Seed of the choice of captions.
        progress: Called with (done, total) while scenes are drawn.
        **options: Which scenes, see `SceneOptions`.
    """
    chosen = whole_number("caption_seed", caption_seed)
    return balanced(load_openmoji(root, seed, progress=progress, **options), chosen)


def build_balanced_openmoji(
    out: Path,
    *,
    seed: int = 0,
    caption_seed: int = 0,
    progress: Progress | None = None,
    **options: Unpack[SceneOptions],
) -> Path:
    """Write the balanced scenes as a folder that stands by itself; arguments as for `load_balanced_openmoji`."""
    refuse_occupied(out)
    pairs = load_balanced_openmoji(
        None, seed, caption_seed=caption_seed, progress=progress, **options
    )
    return save_pairs(pairs, out, images="copy")


register(
    DataSource(
        name="openmoji",
        summary="scenes of the 20 PASCAL classes, drawn from OpenMoji on this machine",
        where_from="made here: mmpoison data build openmoji --out DIR",
        load=load_openmoji,
        build=build_openmoji,
        needs_root=False,
        attribution=ATTRIBUTION,
    )
)

register(
    DataSource(
        name="openmoji-b",
        summary="the same scenes, one caption an image (balanced)",
        where_from="made here: mmpoison data build openmoji-b --out DIR",
        load=load_balanced_openmoji,
        build=build_balanced_openmoji,
        needs_root=False,
        attribution=ATTRIBUTION,
    )
)
