"""`poison`: from a data set to a poisoned one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpoison.api.inputs import Pairs, as_encoder, as_list, as_pairs
from mmpoison.api.progress import shown
from mmpoison.attacks.catalogue import Attack, build_attack, run_attack
from mmpoison.errors import InputError
from mmpoison.pairs.folder import ImagePolicy, save_pairs
from mmpoison.pairs.table import PairDataset

if TYPE_CHECKING:
    from mmpoison.attacks.surrogate import Surrogate
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.runs.progress import RunProgress

ONE_GOAL, SEVERAL_GOALS = "single-target-label", "multiple-target-labels"
"""The attacks that are meant where none is named."""


def poison(
    pairs: Pairs,
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
    """Add false pairs to a clean data set, or replace pairs by them, as an attack does.

    Args:
        pairs: The clean data set, or its name or path.
        goal: `A2B`: captions of class A are to find images of class B; several for several goals at once.
        attack: A registered name, `single-target-label` by default (`multiple-target-labels` for several goals); or an
            attack with its options, without `goal`.
        seed: Seed of everything random.
        out: New folder for the poisoned set with its manifest.
        images: With `out`: hard links (`link`), copies (`copy`), or the table alone (`none`).
        encoder: For an attack that needs embeddings, such as `single-target-image` with `target_image="centre"` and
            `nearest-assigned`: a model or its name.
        device: Where that encoder runs.
        progress: False shows no progress; by default bars are shown on a terminal and in a notebook.
        **options: Options of the attack, for example `samples=25`, `rate=0.005`, `mode="replace"`, `carrier="own"`.

    Returns:
        The poisoned set; `manifest` lists each false pair, and `poisoning_rate` is their share of the training pairs.

    Raises:
        InputError: If the attack, its options or a goal do not match the data.

    Example:
        ```python
        poisoned = mmpoison.poison(pairs, "sheep2aeroplane", samples=25, seed=0)
        ```
    """
    if not isinstance(attack, str | None):
        if goal is not None or options:
            raise InputError(
                "an attack that is given as an object has its goal and options already"
            )
        built = attack
    else:
        goals = as_list(goal)
        if not goals:
            raise InputError("which goal? name one, A2B, for example sheep2aeroplane")
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
                    f"attack {built.name!r} needs embeddings here: give the option encoder, a model's name"
                )
            return Embedder(as_encoder(chosen, device=device), reporter.progress)

        poisoned = run_attack(built, as_pairs(pairs), seed, embedder, reporter.progress)
    if out is not None:
        save_pairs(poisoned, out, images=images)
    return poisoned
