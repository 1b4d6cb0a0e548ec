"""`load` and `poison`, and conversion of names, paths and objects to data sets and encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.api.progress import shown
from mmpoison.base.registry import checked
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.attacks.catalogue import Attack, Surrogate
    from mmpoison.base.progress import RunProgress
    from mmpoison.datasets.catalogue import NamedData
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.pairs.folder import ImagePolicy
    from mmpoison.pairs.table import PairDataset
    from mmpoison.training.settings import TrainingSettings

    # A `Path` is never a name. `NamedData` also holds the format and its options.
    Pairs = PairDataset | str | Path | NamedData


@checked
def load(
    data: str | Path,
    *,
    root: str | Path | None = None,
    format: str | None = None,
    seed: int = 0,
    **options: Any,
) -> PairDataset:
    """Load a data set by name, or a folder or file by path.

    Args:
        data: A name (see `mmpoison data list`) or `hf:ORG/NAME`; or the path of a pairs folder or
            of data in any known format. A `Path` is never taken for a name.
        root: The folder that holds a named data set; for a path, the folder of its images.
        format: The format of a path, if it is not recognised.
        seed: Seed for data that are generated or split at random.
        **options: Options of the data set or format.

    Returns:
        The pairs. Unreliable entries are skipped with a warning and listed in `problems`.

    Raises:
        InputError: If there is no such data set, or it cannot be read.

    Example:
        ```python
        pairs = mmpoison.load("openmoji", unlabelled=400, held_out=100, per_class=10)
        ```
    """
    from mmpoison.datasets.catalogue import load_dataset, load_pairs

    if isinstance(data, Path):
        return load_pairs(data, images=root, format=format, seed=seed, **options)
    return load_dataset(data, root, seed=seed, options=options, format=format)


def as_pairs(pairs: Pairs, *, format: str | None = None) -> PairDataset:
    """Return the data set that a name or path refers to; a data set is returned unchanged.

    Args:
        pairs: The data set, or its name or path.
        format: The format of a path, if it is not recognised.

    Raises:
        InputError: If there is no such data set, or it cannot be read.
    """
    if isinstance(pairs, str | Path):
        return load(pairs, format=format)
    from mmpoison.datasets.catalogue import NamedData

    return pairs.load() if isinstance(pairs, NamedData) else pairs


def as_encoder(model: DualEncoder | str | Path, *, device: str = "auto") -> DualEncoder:
    """Load an encoder by name or path, or take an encoder, and move it to a device.

    Args:
        model: An encoder, or what `load_encoder` takes.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: If there is no such model or device.
    """
    from mmpoison.base.processes import find_device
    from mmpoison.models.loading import load_encoder

    where = find_device(device)
    loaded = load_encoder(model) if isinstance(model, str | Path) else model
    return loaded.to(where)


def training_settings(
    settings: TrainingSettings | None, changes: Mapping[str, Any]
) -> TrainingSettings:
    """Return training settings with keyword arguments applied.

    Raises:
        InputError: If a setting is unknown or out of range.
    """
    from mmpoison.runs.recipe import parse_training

    if settings is not None and not changes:
        return settings
    given = {} if settings is None else settings.model_dump(exclude_unset=True)
    return parse_training({**given, **changes}, "training setting")


def as_list(value: str | Path | Sequence[str | Path] | None) -> list[str]:
    """Return one or several names as a list without duplicates."""
    names = [value] if isinstance(value, str | Path) else value or ()
    return list(dict.fromkeys(map(str, names)))


# -- `poison`: poisons a data set.


ONE_GOAL, SEVERAL_GOALS = "single-target-label", "multiple-target-labels"
"""Default attacks, for one goal and for several."""


@checked
def poison(
    pairs: Pairs,
    /,
    goal: str | Sequence[str] | None = None,
    *,
    attack: str | Attack | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    images: ImagePolicy = "link",
    encoder: DualEncoder | str | None = None,
    device: str = "auto",
    progress: bool | RunProgress = True,
    **options: Any,
) -> PairDataset:
    """Poison a clean data set: an attack adds false pairs or replaces existing ones.

    Args:
        pairs: The clean data set, or its name or path. This argument is positional, because
            `pairs=13` is an option of attacks.
        goal: `A2B`: captions of class A should retrieve images of class B. Give several for several
            goals at once.
        attack: A registered name, `single-target-label` by default (`multiple-target-labels` for
            several goals); or an attack object with its own goal and options.
        seed: Seed for all random choices.
        out: New folder for the poisoned set with its manifest.
        images: With `out`: hard links (`link`), copies (`copy`), or the table alone (`none`).
        encoder: A model or its name, for an attack that needs embeddings, such as
            `nearest-assigned` or `single-target-image` with `target_image="centre"`.
        device: Device for that encoder.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **options: Options of the attack, for example `samples=25`, `rate=0.005`, `mode="replace"`,
            `carrier="own"`.

    Returns:
        The poisoned set. `manifest` lists every false pair; `poisoning_rate` is their share of the
        training pairs.

    Raises:
        InputError: If the attack, its options or a goal do not match the data.

    Example:
        ```python
        poisoned = mmpoison.poison(pairs, "sheep2aeroplane", samples=25, seed=0)
        ```
    """
    from mmpoison.attacks.catalogue import build_attack, run_attack
    from mmpoison.pairs.folder import save_pairs

    if not isinstance(attack, str | None):
        if goal is not None or options:
            raise InputError("the attack is an object: set its goal and options on the object")
        built = attack
    else:
        goals = as_list(goal)
        if not goals:
            raise InputError("no goal given: give one as A2B, e.g. sheep2aeroplane")
        if encoder is not None:
            options["encoder"] = encoder if isinstance(encoder, str) else encoder.name
        usual = SEVERAL_GOALS if len(goals) > 1 else ONE_GOAL
        built = build_attack(attack or usual, goals, options)

    with shown(progress) as reporter:

        def embedder(name: str | None) -> Surrogate:
            from mmpoison.models.embedding import Embedder

            chosen = encoder if encoder is not None else name
            if chosen is None:
                raise InputError(
                    f"attack {built.name!r} needs embeddings: name a model in the option encoder"
                )
            return Embedder(as_encoder(chosen, device=device), reporter.progress)

        poisoned = run_attack(built, as_pairs(pairs), seed, embedder, reporter.progress)
    if out is not None:
        save_pairs(poisoned, out, images=images)
    return poisoned
