"""The interface of attacks, the registry that finds them, and what the attacks of this package share."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, cast

import numpy as np
from pydantic import Field

from mmpoison._version import __version__
from mmpoison.attacks.goal import Goal, require_different_originals
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.settings import (
    AMOUNTS,
    GOAL,
    SHARED,
    CarrierOption,
    Pairs,
    Rate,
    Samples,
    Settings,
    Share,
)
from mmpoison.attacks.surrogate import PixelSurrogate, Surrogate
from mmpoison.attacks.target_labels import Embed, images_without_honest_captions, require_clean_set
from mmpoison.base.options import check_options, options
from mmpoison.base.phrasing import one_line
from mmpoison.base.progress import Progress, ProgressFor
from mmpoison.base.registry import Registry
from mmpoison.base.seeding import generator
from mmpoison.errors import InputError, WorkStopped
from mmpoison.pairs.manifest import PoisonedPair, PoisonManifest
from mmpoison.pairs.table import PairDataset

AttackKind = Literal["targeted", "untargeted", "backdoor"]
"""Whether an attack moves captions of a class, all captions, or those that carry a trigger."""


class Attack(Protocol):
    """An attack turns a clean table into a poisoned one that carries its manifest.

    Class attributes describe it: `name` (registered), `kind`, `source` (the publication), `section` (the place in it),
    `summary` (one line). The constructor takes `goal`, or `goals` if several are possible, and more options.
    """

    name: ClassVar[str]
    kind: ClassVar[AttackKind]
    source: ClassVar[str]
    section: ClassVar[str]
    summary: ClassVar[str]

    def __init__(self, **options: Any) -> None: ...

    @property
    def options(self) -> dict[str, Any]:
        """All options as plain JSON values, enough to build the attack again."""
        ...

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of the table; never touches an image file, but may store new ones.

        An attack whose property `needs_embeddings` is true also takes `embed`, a `Surrogate`. One whose property
        `needs_pixels` is true takes as `embed` a `PixelSurrogate`, and `progress`.
        """
        ...


ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    "mmpoison.attacks",
    group="mmpoison.attacks",
    needs=("name", "kind", "source", "section", "summary", "options", "poison"),
    in_laboratory=True,
)


class BaseAttack(Attack):
    """An attack of this package: a class whose fields are its options (`mmpoison.base.options`), the goal first.

    Those that attacks share are in `settings` too, with the value that an option has if it is not given.
    """

    kind: ClassVar[AttackKind] = "targeted"
    shared: ClassVar[Sequence[str]] = SHARED
    """Options that `Settings` decides; what is no field of an attack may be an attribute."""

    settings: Settings

    def __post_init__(self) -> None:
        """Decide the shared options.

        Raises:
            InputError: If not exactly one amount is given, or the preset fixes another value.
        """
        taken = inspect.signature(type(self)).parameters
        given: dict[str, Any] = {}
        for name in self.shared:
            if name in taken or name not in AMOUNTS:
                value = getattr(self, name, None)
                given[name] = getattr(type(self), name, None) if value is None else value
        self.settings = Settings.of(**given)

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        goal, *others = inspect.signature(type(self)).parameters
        shared = {n: getattr(self.settings, n) for n in self.shared if n in others}
        if shared.get("carrier") == "existing" and getattr(type(self), "carrier", None) is None:
            del shared["carrier"]  # as manifests of versions that had no other
        own = {n: getattr(self, n) for n in others if n not in shared and n not in self.shared}
        values = {goal: getattr(self, goal), **shared, **own}
        return {name: value for name, value in values.items() if value is not None}

    def poison(
        self,
        pairs: PairDataset,
        seed: int = 0,
        *,
        embed: Surrogate | Embed | None = None,
        progress: ProgressFor | None = None,
    ) -> PairDataset:
        """Return a poisoned copy of a clean set, with its manifest; no image file changes, new ones may be stored.

        Args:
            pairs: A clean set with labelled train and test images; attacks that make images also need its files.
            seed: Seed of the run; what is drawn comes from streams of their own, named after attack and goal.
            embed: The surrogate of an attack that needs one. An attack that embeds images alone (`centre`) also takes
                a function from pairs and indices `(n,)` to embeddings `(n, d)`.
            progress: Gives a callback for (done, total) of a named step, for attacks that optimise pixels.

        Raises:
            InputError: If the set is poisoned already, a class is unknown, the original class has no train captions or
                the target class no train or no test image (the attack could not be measured), there are fewer images
                or captions than requested (the message says the largest possible amount), two goals have the same
                original class (their captions would be in two places), an image that is needed cannot be read, or a
                surrogate is needed and missing.
        """
        require_clean_set(pairs)
        train = pairs.select(split="train")
        job = AttackJob(self, pairs, train, (), seed, embed, progress)
        goals = self._goals(job)
        require_different_originals(goals)
        return self._poisoned(replace(job, goals=goals))

    def _goals(self, job: AttackJob) -> list[Goal]:
        """Read the goals; an attack may choose them with its surrogate."""
        given = getattr(self, next(iter(inspect.signature(type(self)).parameters)))
        texts = [given] if isinstance(given, str) else given
        return [Goal.parse(text, job.pairs.classes) for text in texts]

    @abstractmethod
    def _poisoned(self, job: AttackJob) -> PairDataset:
        """Choose the false pairs, and return the set that `job.inject` makes of them."""


@dataclass(frozen=True)
class AttackJob:
    """One call of an attack of this package: what it edits, and with what.

    Attributes:
        attack: The attack.
        pairs: The clean set.
        train: Its training pairs.
        goals: The goals, with different original classes.
        seed: Seed of the run.
        embed: The surrogate, or None.
        progress: Gives a callback for (done, total) of a named step, or None.
    """

    attack: BaseAttack
    pairs: PairDataset
    train: PairDataset
    goals: Sequence[Goal]
    seed: int
    embed: Any
    progress: ProgressFor | None

    @property
    def goal(self) -> Goal:
        """The only goal, or the first."""
        return self.goals[0]

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate; an `InputError` if it is missing."""
        if self.embed is None:
            raise InputError(
                f"attack {self.attack.name!r} needs a surrogate that embeds captions and images"
            )
        return cast("Surrogate", self.embed)

    @property
    def pixel_surrogate(self) -> PixelSurrogate:
        """The surrogate whose image encoder is known; an `InputError` if it is missing, or only embeds."""
        if not isinstance(self.embed, PixelSurrogate):
            raise InputError(
                f"attack {self.attack.name!r} optimises pixels: give a surrogate with an image encoder, e.g. "
                "`Embedder(encoder)`, not precomputed vectors"
            )
        return self.embed

    def generator(self, more: str = "", goal: Goal | None = None) -> np.random.Generator:
        """Return the attack's generator for a goal, by default the first; `more` names another stream."""
        return generator(self.seed, f"attack/{self.attack.name}/{goal or self.goal}{more}")

    def shown(self, step: str) -> Progress | None:
        """Return the callback for (done, total) of a step."""
        return self.progress(f"{self.attack.name}: {step}") if self.progress else None

    def inject(self, entries: Sequence[PoisonedPair], **more: Any) -> PairDataset:
        """Make the poisoned set, with its manifest.

        Args:
            entries: The poisoned pairs.
            **more: As for `poison_set`; by default the images lose the clean pairs that the carrier `own` takes.
        """
        settings = self.attack.settings
        return poison_set(
            self.pairs,
            entries,
            attack=self.attack.name,
            options=self.attack.options,
            goals=self.goals,
            mode=settings.mode,
            seed=self.seed,
            **{"dropped_images": images_without_honest_captions(entries, settings), **more},
        )


@options
class LabelAttack(BaseAttack):
    """An attack with the options that most have: one goal, how many of its captions, and whose images carry them."""

    goal: str = Field(kw_only=False, description=GOAL)
    samples: Samples = None
    pairs: Pairs = None
    share: Share = None
    carrier: CarrierOption = None


@options
class RateAttack(BaseAttack):
    """An attack with one goal whose amount may be a rate."""

    goal: str = Field(kw_only=False, description=GOAL)
    samples: Samples = Field(default=None, kw_only=False)
    pairs: Pairs = Field(default=None, kw_only=False)
    rate: Rate = Field(default=None, kw_only=False)


def build_attack(
    name: str, goals: Sequence[str], options: Mapping[str, Any], where: str = ""
) -> Attack:
    """Build an attack by name.

    Args:
        name: Registered name.
        goals: Its goals, `A2B` each.
        options: Its other options.
        where: Prefix of an option's name in messages, for example `recipe key attack.`.

    Raises:
        InputError: If there is no such attack, it takes one goal and is given several, or has no such option.
    """
    plug_in = ATTACKS[name]
    names = inspect.signature(plug_in).parameters.keys() - {"goal", "goals"}
    check_options(options, names, f"attack {name!r}", where)
    if takes_several_goals(name):
        return plug_in(goals=list(goals), **options)
    if len(goals) != 1:
        several = filter(takes_several_goals, ATTACKS)
        raise InputError(
            f"attack {name!r} takes one goal, got {', '.join(goals) or 'none'}: for several goals use "
            f"{', '.join(several)}"
        )
    return plug_in(goal=goals[0], **options)


def takes_several_goals(name: str) -> bool:
    """Return whether an attack takes a list of goals.

    Raises:
        InputError: If there is no such attack.
    """
    return "goals" in inspect.signature(ATTACKS[name]).parameters


def run_attack(
    attack: Attack,
    pairs: PairDataset,
    seed: int,
    embedder: Callable[[str | None], Surrogate],
    progress: ProgressFor | None = None,
) -> PairDataset:
    """Poison a set, with a surrogate where the attack needs one.

    Args:
        attack: The attack.
        pairs: A clean set.
        seed: Seed of the run.
        embedder: Gives `embed` for the name of an encoder, None where the attack names none; called only if needed.
        progress: Gives a callback for (done, total) of a named step; for attacks that optimise pixels.
    """
    poison: Callable[..., PairDataset] = attack.poison
    needs_pixels = getattr(attack, "needs_pixels", False)
    more: dict[str, Any] = {"progress": progress} if needs_pixels else {}
    if needs_pixels or getattr(attack, "needs_embeddings", False):
        more["embed"] = embedder(getattr(attack, "encoder", None))
    return poison(pairs, seed, **more)


COMPARED = ("goals", "mode", "target_images", "pairs")
"""Fields of a manifest that its attack chooses; what follows from them is checked without the attack."""


def attack_problems(clean: PairDataset, manifest: PoisonManifest) -> tuple[list[str], list[str]]:
    """Run the attack of a manifest again, and compare what it chooses with what the manifest says.

    Nothing is compared where the attack needs a model or is not installed, a filter has removed pairs since, or
    another version of mmpoison made the set and may have drawn otherwise.

    Args:
        clean: The set that the poisoned one was made from; nothing is compared with another one.
        manifest: The manifest.

    Returns:
        What is wrong, and what was not compared, a line each.
    """
    if clean.fingerprint != manifest.clean_fingerprint:
        return [], []
    name, options = manifest.attack, dict(manifest.options)
    run = f"attack {name!r:.60} with the manifest's options and seed {manifest.seed}"
    reason = ""
    if manifest.filtered is not None:
        reason = "a filter has removed pairs since"
    elif manifest.tool_version != __version__:
        reason = (
            f"the set was made by version {manifest.tool_version:.20}, which may draw other samples"
        )
    elif name not in ATTACKS:
        reason = "it is not installed"
    if reason:
        return [], [f"{run} was not run again: {reason}"]
    try:
        goals = options.pop("goals" if takes_several_goals(name) else "goal", [])
        attack = build_attack(name, [goals] if isinstance(goals, str) else goals, options)
        if getattr(attack, "needs_pixels", False) or getattr(attack, "needs_embeddings", False):
            return [], [f"{run} was not run again: it needs a model"]
        again = attack.poison(clean, manifest.seed).manifest
    except WorkStopped:
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        # an option of a manifest that was edited can be anything
        return [f"{run} cannot be run on the clean set: {one_line(str(error))[:200]}"], []
    differ = [field for field in COMPARED if getattr(again, field) != getattr(manifest, field)]
    if not differ:
        return [], []
    what = ", ".join(field.replace("_", " ") for field in differ)
    return [
        f"{run} gives different {what} on the clean set than the manifest, which was edited"
    ], []
