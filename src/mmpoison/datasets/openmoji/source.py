"""Registers `openmoji`, the embedded data set: scenes drawn on this machine and cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from mmpoison.base.cache_folder import cache_folder
from mmpoison.base.files import refuse_occupied
from mmpoison.datasets.catalogue import DataSource, register
from mmpoison.datasets.openmoji.build import (
    ATTRIBUTION,
    SceneOptions,
    build_openmoji,
    scene_numbers,
)
from mmpoison.datasets.openmoji.scene_data import OPENMOJI_SCENES_VERSION
from mmpoison.datasets.options import whole_number
from mmpoison.errors import InputError
from mmpoison.pairs.folder import load_pairs_folder, save_pairs
from mmpoison.pairs.reshape import balanced
from mmpoison.pairs.table import PairDataset

Progress = Callable[[int, int], None]


def load_openmoji(
    root: Path | None,
    seed: int = 0,
    *,
    progress: Progress | None = None,
    **options: Unpack[SceneOptions],
) -> PairDataset:
    """Load the scenes of a seed; draw them first where they are not cached yet.

    Args:
        root: A folder built before, or None for the cache folder.
        seed: Seed of the scenes.
        progress: Called with (done, total) while scenes are drawn.
        **options: Which scenes, see `SceneOptions`.
    """
    if root is not None:
        return load_pairs_folder(root)
    numbers = scene_numbers(seed, options)
    name = (
        f"v{OPENMOJI_SCENES_VERSION}-seed{numbers['seed']}-{numbers['unlabelled']}-"
        f"{numbers['per_class']}-{numbers['held_out']}-{numbers['size']}px"
    )
    folder = cache_folder() / "openmoji" / name
    if not folder.is_dir():
        try:
            build_openmoji(folder, seed=seed, progress=progress, **options)
        except (InputError, OSError):
            # another run of a sweep may have drawn them meanwhile
            if not folder.is_dir():
                raise
    return load_pairs_folder(folder)


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
