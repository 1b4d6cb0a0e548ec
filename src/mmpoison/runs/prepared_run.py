"""Prepares a run: loads the data and model, poisons the data, and refuses a run that would fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mmpoison.attacks.catalogue import Surrogate, build_attack, run_attack
from mmpoison.attacks.settings import Goal, original_of_auto
from mmpoison.base.progress import RunProgress
from mmpoison.base.seeding import generator
from mmpoison.defenses.catalogue import build_defense, services_of
from mmpoison.defenses.scan.cut.judging import needs_trusted
from mmpoison.defenses.scan.cut.labels import read_labels
from mmpoison.defenses.scan.cut.score_filter import build_filter
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import GoalTarget, TestSet, goal_targets_of
from mmpoison.models.architectures import MODELS
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.embedding import Embedder
from mmpoison.pairs.table import BoolArray, PairDataset
from mmpoison.runs.recipe import Recipe, SterilizePart, TransferPart
from mmpoison.runs.run_cache import RunCache
from mmpoison.training.settings import ROLES, TrainingSettings

# -- Selects the clean pairs of a run, for alignment and for repair.


def alignment_pairs(
    pairs: PairDataset, name: str = "pretrained", halves: int | None = None
) -> PairDataset:
    """Select the clean pairs for aligning the towers of a model.

    Args:
        pairs: The clean data.
        name: `pretrained` or `judge`.
        halves: Seed that splits the images: one half for `pretrained`, the other for `judge`. None
            selects all.
    """
    clean = pairs.select(split="val")
    if halves is None:
        return clean
    images = clean.used_images()
    first = generator(halves, "align/halves").permutation(images)[: len(images) // 2]
    return clean.where(np.isin(clean.image, first) == (name == "pretrained"))


def halves_of(recipe: Recipe) -> int | None:
    """Return the seed that splits the clean images if both model and judge are aligned on them."""
    judge = recipe.filter
    both = recipe.model.align is not None and judge is not None and judge.align is not None
    return recipe.seed if both else None


def repair_pairs(pairs: PairDataset, part: SterilizePart, seed: int) -> PairDataset:
    """Select the clean pairs for a repair.

    Args:
        pairs: The data, clean or poisoned.
        part: The repair, with its number of pairs.
        seed: Seed of the run.
    """
    clean = pairs.select(split="val")
    if part.pairs is None or part.pairs >= len(clean):
        return clean
    chosen = generator(seed, "sterilize/pairs").permutation(len(clean))[: part.pairs]
    mask = np.zeros(len(clean), dtype=bool)
    mask[chosen] = True
    return clean.where(mask)


def filled(train: PairDataset, keep: BoolArray, seed: int) -> PairDataset:
    """Replace dropped pairs with random kept pairs, with replacement.

    The filtered set then has as many pairs as before. Its training has the same number of optimiser
    steps and the same learning-rate schedule.

    Args:
        train: The `N` training pairs.
        keep: Mask of the kept pairs, shape `(N,)`.
        seed: Seed of the run.
    """
    stays = np.flatnonzero(keep)
    again = generator(seed, "matrix/filled").choice(stays, int((~keep).sum()))
    rows = np.sort(np.concatenate([stays, again]))
    return replace(
        train, captions=train.captions[rows], image=train.image[rows], source=train.source[rows]
    )


@dataclass(frozen=True)
class Transfer:
    """Another data set on which the models are measured.

    Attributes:
        pairs: The whole set.
        test: Its test part.
        goal_targets: Goals to measure on it.
    """

    pairs: PairDataset
    test: TestSet
    goal_targets: tuple[GoalTarget, ...]


@dataclass(frozen=True)
class PreparedRun:
    """The input of a run's stages.

    Attributes:
        recipe: The recipe.
        pairs: The clean data.
        poisoned: The poisoned data, with a manifest.
        test: The test part.
        goal_targets: The goals with their target sets.
        start: The model named in the recipe.
        device: Device to compute on.
        halves: Seed that splits the clean images if both model and judge are aligned on them.
    """

    recipe: Recipe
    pairs: PairDataset
    poisoned: PairDataset
    test: TestSet
    goal_targets: Sequence[GoalTarget]
    start: DualEncoder
    device: torch.device
    halves: int | None = None

    @property
    def on_features(self) -> bool:
        """Whether only heads are trained, on outputs of the frozen trunks."""
        return self.recipe.training.heads_only


def prepare_run(
    recipe: Recipe,
    run_cache: RunCache,
    progress: RunProgress,
    device: torch.device,
) -> PreparedRun:
    """Load and poison the data, load the model, and check everything that could fail later.

    Args:
        recipe: The recipe.
        run_cache: Data and models that this process has loaded.
        progress: Reports progress.
        device: Device to compute on.

    Raises:
        InputError: If the recipe cannot be run on the data.
    """
    _check_defences(recipe)
    pairs = run_cache.pairs(recipe.data, recipe.seed)
    run_cache.watch(pairs)
    test = TestSet.of(pairs)
    for text in recipe.attack.goals:
        # if the attack chooses the target class, the goal is checked after the attack
        if original_of_auto(text, pairs.classes) is None:
            test.check_goal(Goal.parse(text, pairs.classes))
    _check_clean_split(recipe, pairs)
    attack = build_attack(
        recipe.attack.name, recipe.attack.goals, recipe.attack.options, "recipe key attack."
    )
    model = recipe.model

    def embedder(name: str | None) -> Surrogate:
        """Return the surrogate of an attack: the encoder it names, else the recipe's model."""
        # an attack that optimises pixels needs the encoder itself, not stored embeddings
        if recipe.share_features and not getattr(attack, "needs_pixels", False):
            return run_cache.surrogate(name or model.name, pairs, progress=progress.progress)
        encoder = run_cache.encoder(name or model.name, device=torch.device("cpu"))
        return Embedder(encoder, progress.progress)

    poisoned = run_cache.poisoned(
        recipe,
        pairs,
        lambda: run_attack(attack, pairs, recipe.seed, embedder, progress.progress),
    )
    assert poisoned.manifest is not None
    goal_targets = goal_targets_of(poisoned.manifest, pairs)
    for goal_target in goal_targets:
        test.check(goal_target)
    for part in recipe.transfer:
        load_transfer(part, goal_targets, recipe, run_cache)
    start = run_cache.encoder(model.name, device=device)
    _check_models(recipe, start, run_cache, device)
    halves = halves_of(recipe)
    return PreparedRun(recipe, pairs, poisoned, test, goal_targets, start, device, halves)


def load_transfer(
    part: TransferPart, goal_targets: Sequence[GoalTarget], recipe: Recipe, run_cache: RunCache
) -> Transfer:
    """Load another data set, and choose the goals to measure on it.

    Raises:
        InputError: If the goals cannot be measured there.
    """
    pairs = run_cache.pairs(part.data, recipe.seed)
    goals = part.goals or [str(goal_target) for goal_target in goal_targets]
    there = tuple(GoalTarget(Goal.parse(goal, pairs.classes)) for goal in goals)
    test = TestSet.of(pairs)
    for goal_target in there:
        test.check(goal_target)
    return Transfer(pairs, test, there)


def _check_defences(recipe: Recipe) -> None:
    """Build all defences except the filter, to find unknown names and options before loading."""
    if (robust := recipe.robust_training) is not None:
        build_defense("in-training", robust.method, robust.options, "recipe key robust_training.")
    if (check := recipe.check) is not None:
        build_defense("check", check.method, check.options, "recipe key check.")
    if (repair := recipe.sterilize) is not None:
        where = "recipe key sterilize."
        built = build_defense(
            "post-training", repair.method, repair.options, where, repair.training
        )
        if repair.curve and "on_step" not in services_of(built):
            raise InputError(
                f"{where}curve: defence {repair.method!r} cannot be measured during the repair: omit curve"
            )


def _check_models(
    recipe: Recipe, start: DualEncoder, run_cache: RunCache, device: torch.device
) -> None:
    model, judge, repair = recipe.model, recipe.filter, recipe.sterilize
    if model.align is None and model.name in MODELS and not MODELS[model.name].aligned:
        raise InputError(
            f"model {model.name!r} was trained as two towers: recipe key model.align must say how to align them"
        )
    if judge is not None:
        method = build_filter(judge.method, judge.options, "recipe key filter.")
        if method.cut.labels is not None:
            read_labels(method.cut.labels)
        if judge.encoder != "pretrained":
            encoder = run_cache.encoder(judge.encoder, device=device)
            if judge.align is not None:
                _check_heads(encoder, judge.align)
    _check_heads(start, recipe.training)
    for key, settings in (
        ("model.align", model.align),
        ("sterilize.training", repair.training if repair else None),
    ):
        if settings is None:
            continue
        _check_heads(start, settings)
        if recipe.training.heads_only and not settings.heads_only:
            raise InputError(
                f"recipe key {key}.trainable is {settings.trainable!r}, but with training.trainable "
                f"{recipe.training.trainable!r} the trunks run only once, so only heads can be trained"
            )


def _check_heads(start: DualEncoder, settings: TrainingSettings) -> None:
    if settings.heads_only:
        image, text = (role == "head" for role in ROLES[settings.trainable])
        start.head_parameters("both" if image and text else "image" if image else "text")


def _check_clean_split(recipe: Recipe, pairs: PairDataset) -> None:
    part = recipe.filter
    uses = {
        "model.align": recipe.model.align is not None,
        "filter.align": part is not None and part.align is not None,
        "filter.clean_loss": part is not None
        and part.trusted == "val"
        and "clean_loss" in part.options
        and needs_trusted(build_filter(part.method, part.options, "recipe key filter.")),
        "sterilize": recipe.sterilize is not None,
    }
    needed = [name for name, used in uses.items() if used]
    if needed and not len(pairs.select(split="val")):
        raise InputError(
            f"recipe key {needed[0]} needs clean pairs, and the data have none (split 'val')"
        )
    if recipe.sterilize is not None:
        repair_pairs(pairs, recipe.sterilize, recipe.seed)
