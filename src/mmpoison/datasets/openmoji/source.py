"""Registers `openmoji`, the embedded data set: scenes drawn on this machine and cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmpoison.base.code_version import code_version
from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.base.files import refuse_occupied
from mmpoison.datasets.catalogue import DATASETS, DataSource
from mmpoison.datasets.openmoji.build import ATTRIBUTION, build_openmoji
from mmpoison.pairs.folder import load_pairs_folder, save_pairs
from mmpoison.pairs.option_values import whole_number
from mmpoison.pairs.reshape import balanced
from mmpoison.pairs.table import PairDataset

KIND, SCENES = "data/openmoji", "scenes"


def load_openmoji(
    root: Path | None,
    seed: int = 0,
    *,
    unlabelled: int = 4500,
    per_class: int = 50,
    held_out: int = 1000,
    size: int = 64,
    scene_seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PairDataset:
    """Load the scenes of a seed; draw them first where they are not cached yet.

    Args:
        root: A folder built before, or None for the cache folder.
        seed: Seed of the scenes.
        unlabelled: Images of the unlabelled training part.
        per_class: Labelled images of each class, half train and half test.
        held_out: Images of the clean part that the defences trust (split `val`).
        size: Side of the images in pixels.
        scene_seed: In the place of `seed`: the same scenes for every seed of a run, or others than those of its seed.
        progress: Called with (done, total) while scenes are drawn.
    """
    if root is not None:
        return load_pairs_folder(root)
    if scene_seed is not None:
        seed = whole_number("scene_seed", scene_seed)
    options = {
        "seed": seed,
        "unlabelled": unlabelled,
        "per_class": per_class,
        "held_out": held_out,
        "size": size,
    }
    key = CacheKey(
        KIND, {"computed": code_version(build_openmoji), **options}, "openmoji scenes", options
    )

    def draw(folder: Path) -> None:
        if not (folder / SCENES).is_dir():  # else it was killed after the last picture
            build_openmoji(folder / SCENES, progress=progress, **options)

    return ContentCache().obtain(key, lambda folder: load_pairs_folder(folder / SCENES), draw)[0]


def load_balanced_openmoji(
    root: Path | None,
    seed: int = 0,
    *,
    unlabelled: int = 4500,
    per_class: int = 50,
    held_out: int = 1000,
    size: int = 64,
    scene_seed: int | None = None,
    caption_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PairDataset:
    """The scenes with one random caption for each image (the paper's balanced sets, "-b").

    Args:
        root: As for `load_openmoji`, like all others but `caption_seed`.
        seed: Seed of the scenes.
        unlabelled: Images of the unlabelled training part.
        per_class: Labelled images of each class.
        held_out: Images of the split `val`.
        size: Side of the images in pixels.
        scene_seed: As for `load_openmoji`.
        caption_seed: Seed of the choice of captions.
        progress: Called with (done, total) while scenes are drawn.
    """
    chosen = whole_number("caption_seed", caption_seed)
    scenes = load_openmoji(
        root,
        seed,
        unlabelled=unlabelled,
        per_class=per_class,
        held_out=held_out,
        size=size,
        scene_seed=scene_seed,
        progress=progress,
    )
    return balanced(scenes, chosen)


def build_scenes(
    out: Path,
    *,
    seed: int = 0,
    unlabelled: int = 4500,
    per_class: int = 50,
    held_out: int = 1000,
    size: int = 64,
    scene_seed: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the scenes into a folder; arguments as for `load_openmoji`."""
    return build_openmoji(
        out,
        seed=seed if scene_seed is None else whole_number("scene_seed", scene_seed),
        unlabelled=unlabelled,
        per_class=per_class,
        held_out=held_out,
        size=size,
        progress=progress,
    )


def build_balanced_openmoji(
    out: Path,
    *,
    seed: int = 0,
    unlabelled: int = 4500,
    per_class: int = 50,
    held_out: int = 1000,
    size: int = 64,
    scene_seed: int | None = None,
    caption_seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the balanced scenes as a folder that stands by itself; arguments as for `load_balanced_openmoji`."""
    refuse_occupied(out)
    pairs = load_balanced_openmoji(
        None,
        seed,
        unlabelled=unlabelled,
        per_class=per_class,
        held_out=held_out,
        size=size,
        scene_seed=scene_seed,
        caption_seed=caption_seed,
        progress=progress,
    )
    return save_pairs(pairs, out, images="copy")


OPTIONS = ("unlabelled", "per_class", "held_out", "size")

DATASETS.register("openmoji")(
    DataSource(
        name="openmoji",
        summary="scenes of the 20 PASCAL classes, drawn from OpenMoji on this machine",
        where_from="made here: mmpoison data build openmoji --out DIR",
        load=load_openmoji,
        build=build_scenes,
        needs_root=False,
        attribution=ATTRIBUTION,
        options=(*OPTIONS, "scene_seed"),
    )
)

DATASETS.register("openmoji-b")(
    DataSource(
        name="openmoji-b",
        summary="the same scenes, one caption an image (balanced)",
        where_from="made here: mmpoison data build openmoji-b --out DIR",
        load=load_balanced_openmoji,
        build=build_balanced_openmoji,
        needs_root=False,
        attribution=ATTRIBUTION,
        options=(*OPTIONS, "scene_seed", "caption_seed"),
    )
)
