"""The attack interface, the registry of attacks, their base classes, and the attacker's own model (`Surrogate`)."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mmpoison._version import __version__
from mmpoison.attacks.settings import (
    AMOUNTS,
    GOAL,
    SHARED,
    CarrierOption,
    Goal,
    Pairs,
    Rate,
    Samples,
    Settings,
    Share,
    require_different_originals,
)
from mmpoison.attacks.target_labels import (
    Embed,
    images_without_honest_captions,
    poison_set,
    require_clean_set,
)
from mmpoison.base.options import check_options, options
from mmpoison.base.progress import Progress, ProgressFor
from mmpoison.base.registry import Registry
from mmpoison.base.seeding import generator
from mmpoison.base.text import one_line
from mmpoison.errors import InputError, WorkStopped
from mmpoison.images.preparation import Pixels, Preparation
from mmpoison.pairs.manifest import PoisonedPair, PoisonManifest
from mmpoison.pairs.table import IntArray, PairDataset

Vectors = npt.NDArray[np.float32]
PixelValues = npt.NDArray[np.float32]
"""Real-valued pixels: RGB in [0, 255], shape `(n, size, size, 3)`."""

PullBack = Callable[[Vectors], PixelValues]
"""Maps a loss's gradient with respect to embeddings `(n, d)` to its gradient with respect to pixels."""


class Surrogate(Protocol):
    """Embeds images and captions, not necessarily in the same space: see `Matching`."""

    def __call__(self, pairs: PairDataset, images: IntArray) -> npt.NDArray[Any]:
        """Embed images of a table, given their indices `(n,)`; returns embeddings `(n, e)`."""
        ...

    def captions(self, captions: Sequence[str]) -> npt.NDArray[Any]:
        """Embed captions; returns embeddings `(n, d)`."""
        ...


@runtime_checkable
class PixelSurrogate(Surrogate, Protocol):
    """A surrogate with a differentiable image encoder, which can optimise pixels.

    Its embeddings have unit length. Captions and images share one space.
    """

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything its numbers depend on, as JSON values: `weights` (sha256), architecture, machine."""

    @property
    def preparation(self) -> Preparation:
        """How it resizes and crops images."""

    @property
    def logit_scale(self) -> float:
        """The factor by which its loss multiplies cosines."""

    def pixels(self, pairs: PairDataset, images: IntArray) -> Pixels:
        """Preprocess images of a table, given their indices `(n,)`; returns RGB `(n, size, size, 3)`."""
        ...

    def differentiate(self, pixels: PixelValues) -> tuple[Vectors, PullBack]:
        """Embed pixels; returns embeddings `(n, d)` and a function that maps their gradient to the pixels."""
        ...


class VectorSurrogate:
    """A surrogate with precomputed vectors.

    Args:
        captions: Distinct captions, `n` of them.
        text: Their vectors, shape `(n, d)`.
        images: Indices of images, shape `(m,)`.
        image: Their vectors, shape `(m, e)`.
        encode: Embeds unlisted captions, `(k,)` to `(k, d)`. Without it, unlisted captions are refused.
    """

    def __init__(
        self,
        captions: Sequence[str],
        text: npt.ArrayLike,
        images: npt.ArrayLike,
        image: npt.ArrayLike,
        encode: Callable[[Sequence[str]], npt.NDArray[Any]] | None = None,
    ) -> None:
        self._text, self._image = np.asarray(text), np.asarray(image)
        self._caption_row = {str(caption): row for row, caption in enumerate(captions)}
        self._image_row = {int(index): row for row, index in enumerate(np.asarray(images))}
        self._encode = encode

    def __call__(self, pairs: PairDataset, images: IntArray) -> npt.NDArray[Any]:
        """Look up vectors of images.

        Raises:
            InputError: If an image has no vector.
        """
        try:
            return self._image[[self._image_row[int(index)] for index in images]]
        except KeyError as error:
            name = pairs.images.ids[error.args[0]]
            raise InputError(f"the surrogate has no vector for image {name!r}") from None

    def captions(self, captions: Sequence[str]) -> npt.NDArray[Any]:
        """Look up vectors of captions, and encode unlisted captions.

        Raises:
            InputError: If a caption has no vector, and there is no `encode`.
        """
        rows = np.array([self._caption_row.get(str(caption), -1) for caption in captions], np.int64)
        new = np.flatnonzero(rows < 0).tolist()
        if not len(new):
            return self._text[rows]
        if self._encode is None:
            raise InputError(f"the surrogate has no vector for caption {captions[new[0]][:60]!r}")
        vectors = self._text[rows].copy()
        vectors[new] = self._encode([str(captions[row]) for row in new])
        return vectors


AttackKind = Literal["targeted", "untargeted", "backdoor"]
"""Whether an attack affects captions of a class, all captions, or captions with a trigger."""


class Attack(Protocol):
    """An attack, which turns a clean table into a poisoned one with a manifest.

    Class attributes describe it: `name` (registered), `kind`, `source` (the publication), `section` (in that
    publication), `summary` (one line). The constructor takes `goal`, or `goals` if it supports several, and options.
    """

    name: ClassVar[str]
    kind: ClassVar[AttackKind]
    source: ClassVar[str]
    section: ClassVar[str]
    summary: ClassVar[str]

    def __init__(self, **options: Any) -> None: ...

    @property
    def options(self) -> dict[str, Any]:
        """All options as plain JSON values, sufficient to rebuild the attack."""
        ...

    def poison(self, pairs: PairDataset, seed: int = 0) -> PairDataset:
        """Return a poisoned copy of the table. Existing image files never change; new ones may be stored.

        If the property `needs_embeddings` is true, the attack also takes `embed`, a `Surrogate`. If `needs_pixels` is
        true, `embed` is a `PixelSurrogate`, and the attack takes `progress`.
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
    """Base class of this package's attacks. Its fields are the options (`mmpoison.base.registry`), the goal first.

    The options `samples`, `pairs`, `rate` and `share`, where an attack has them, set the amount: give exactly one.
    `settings` holds the shared options with their defaults filled in.
    """

    kind: ClassVar[AttackKind] = "targeted"
    shared: ClassVar[Sequence[str]] = SHARED
    """Options resolved by `Settings`. An attack may define one as a class attribute instead of a field."""

    settings: Settings

    def __post_init__(self) -> None:
        """Resolve the shared options.

        Raises:
            InputError: If not exactly one amount is given, or the preset fixes a different value.
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
        """All options, sufficient to rebuild the attack."""
        goal, *others = inspect.signature(type(self)).parameters
        shared = {n: getattr(self.settings, n) for n in self.shared if n in others}
        if shared.get("carrier") == "existing" and getattr(type(self), "carrier", None) is None:
            del shared["carrier"]  # so that manifests equal those of versions without this option
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
        """Return a poisoned copy of a clean set, with its manifest. Image files never change; new ones may be stored.

        Args:
            pairs: A clean set with labelled train and test images; attacks that make images also need its files.
            seed: Seed of the run. Random draws use separate streams, named after attack and goal.
            embed: The surrogate, for attacks that need one. Attacks that embed only images (`centre`) also accept a
                function from pairs and indices `(n,)` to embeddings `(n, d)`.
            progress: Returns a callback for (done, total) of a named step; for attacks that optimise pixels.

        Raises:
            InputError: If the set is already poisoned, a class is unknown, the original class has no train captions, or
                the target class has no train or no test image (the attack could not be measured). Also if there are
                fewer images or captions than requested (the message names the largest possible amount), two goals share
                an original class (their captions would be used twice), a needed image cannot be read, or a needed
                surrogate is missing.
        """
        require_clean_set(pairs)
        train = pairs.select(split="train")
        job = AttackJob(self, pairs, train, (), seed, embed, progress)
        goals = self._goals(job)
        require_different_originals(goals)
        return self._poisoned(replace(job, goals=goals))

    def _goals(self, job: AttackJob) -> list[Goal]:
        """Parse the goals. An attack may choose them with its surrogate."""
        given = getattr(self, next(iter(inspect.signature(type(self)).parameters)))
        texts = [given] if isinstance(given, str) else given
        return [Goal.parse(text, job.pairs.classes) for text in texts]

    @abstractmethod
    def _poisoned(self, job: AttackJob) -> PairDataset:
        """Choose the false pairs, and return the set that `job.inject` creates from them."""


@dataclass(frozen=True)
class AttackJob:
    """The inputs of one attack call.

    Attributes:
        attack: The attack.
        pairs: The clean set.
        train: Its training pairs.
        goals: The goals, with different original classes.
        seed: Seed of the run.
        embed: The surrogate, or None.
        progress: Returns a callback for (done, total) of a named step, or None.
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
        """The surrogate. Raises `InputError` if it is missing."""
        if self.embed is None:
            raise InputError(
                f"attack {self.attack.name!r} needs a surrogate that embeds captions and images"
            )
        return cast("Surrogate", self.embed)

    @property
    def pixel_surrogate(self) -> PixelSurrogate:
        """The surrogate with gradients. Raises `InputError` if it is missing or can only embed."""
        if not isinstance(self.embed, PixelSurrogate):
            raise InputError(
                f"attack {self.attack.name!r} optimises pixels: give a surrogate with an image encoder, e.g. "
                "`Embedder(encoder)`, not precomputed vectors"
            )
        return self.embed

    def generator(self, more: str = "", goal: Goal | None = None) -> np.random.Generator:
        """Return the attack's generator for a goal, by default the first. `more` names further streams."""
        return generator(self.seed, f"attack/{self.attack.name}/{goal or self.goal}{more}")

    def shown(self, step: str) -> Progress | None:
        """Return the progress callback (done, total) for a step."""
        return self.progress(f"{self.attack.name}: {step}") if self.progress else None

    def inject(self, entries: Sequence[PoisonedPair], **more: Any) -> PairDataset:
        """Create the poisoned set, with its manifest.

        Args:
            entries: The poisoned pairs.
            **more: Passed to `poison_set`. By default, images of the carrier `own` lose their clean pairs.
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
    """Base class of attacks with the common options: one goal, number of captions, and carrier images."""

    goal: str = Field(kw_only=False, description=GOAL)
    samples: Samples = None
    pairs: Pairs = None
    share: Share = None
    carrier: CarrierOption = None


@options
class RateAttack(BaseAttack):
    """Base class of attacks with one goal whose amount may be a rate."""

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
        goals: Goals, each in the form `A2B`.
        options: Other options.
        where: Prefix for option names in messages, for example `recipe key attack.`.

    Raises:
        InputError: If the attack or an option does not exist, or the attack takes one goal and several are given.
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
    """Check whether an attack takes a list of goals.

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
    """Poison a set, with a surrogate if the attack needs one.

    Args:
        attack: The attack.
        pairs: A clean set.
        seed: Seed of the run.
        embedder: Returns `embed` for an encoder name, or for None if the attack names no encoder. Called only if
            needed.
        progress: Returns a callback for (done, total) of a named step; for attacks that optimise pixels.
    """
    poison: Callable[..., PairDataset] = attack.poison
    needs_pixels = getattr(attack, "needs_pixels", False)
    more: dict[str, Any] = {"progress": progress} if needs_pixels else {}
    if needs_pixels or getattr(attack, "needs_embeddings", False):
        more["embed"] = embedder(getattr(attack, "encoder", None))
    return poison(pairs, seed, **more)


COMPARED = ("goals", "mode", "target_images", "pairs")
"""Manifest fields that the attack chooses. Fields derived from them are checked without the attack."""


def attack_problems(clean: PairDataset, manifest: PoisonManifest) -> tuple[list[str], list[str]]:
    """Run a manifest's attack again, and compare its choices with the manifest.

    Nothing is compared if the attack needs a model or is not installed, if a filter has removed pairs since, or if
    another version of mmpoison, whose random draws may differ, made the set.

    Args:
        clean: The clean set that the poisoned set was made from. With any other set, nothing is compared.
        manifest: The manifest.

    Returns:
        Problems, and what was not compared, one line each.
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
        # an edited manifest may contain any option
        return [f"{run} cannot be run on the clean set: {one_line(str(error))[:200]}"], []
    differ = [field for field in COMPARED if getattr(again, field) != getattr(manifest, field)]
    if not differ:
        return [], []
    what = ", ".join(field.replace("_", " ") for field in differ)
    return [
        f"{run} gives different {what} on the clean set than the manifest, which was edited"
    ], []
