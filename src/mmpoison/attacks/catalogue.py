"""The interface of attacks, the registry that finds them, and what the attacks of this package share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Protocol

from mmpoison.attacks.goal import Goal
from mmpoison.attacks.injection import poison_set
from mmpoison.attacks.settings import AMOUNTS, Carrier, Settings
from mmpoison.attacks.surrogate import Surrogate
from mmpoison.attacks.target_labels import images_without_honest_captions
from mmpoison.base.registry import Registry, unknown_name
from mmpoison.errors import InputError
from mmpoison.pairs.manifest import PoisonedPair
from mmpoison.pairs.table import PairDataset

ProgressFor = Callable[[str], Callable[[int, int], None]]
"""Gives a callback for (done, total) of a named step."""

Kind = Literal["targeted", "untargeted", "backdoor"]
"""Whether an attack moves captions of a class, all captions, or those that carry a trigger."""


class Attack(Protocol):
    """An attack turns a clean table into a poisoned one that carries its manifest.

    Class attributes describe it: `name` (registered), `kind`, `source` (the publication), `section` (the place in it),
    `summary` (one line). The constructor takes `goal`, or `goals` if several are possible, and more options.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
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
)


SHARED = (*AMOUNTS, "mode", "spread", "carrier", "words", "preset")
"""Options that `Settings` checks."""


class BaseAttack(Attack):
    """An attack of this package: a dataclass whose fields are its options, the goal first.

    Those that attacks share are checked together and are in `settings`, with the value that an option has if it is not
    given.
    """

    kind: ClassVar[Kind] = "targeted"
    shared: ClassVar[Sequence[str]] = SHARED
    usual: ClassVar[Mapping[str, Any]] = {}
    """Shared options whose default is not that of `Settings`."""

    encoder: str | None = None
    """Name of the surrogate; a field of the attacks that take one."""

    settings: Settings

    def __post_init__(self) -> None:
        """Check the shared options.

        Raises:
            InputError: If not exactly one amount is given, a value is out of range, or the preset fixes another value.
        """
        taken = inspect.signature(type(self)).parameters
        given = {name: getattr(self, name) for name in taken if name in self.shared}
        usual = {name: value for name, value in self.usual.items() if given.get(name) is None}
        self.settings = Settings.of(**{"preset": None, **given, **usual})
        if self.encoder is not None and not (isinstance(self.encoder, str) and self.encoder):
            raise InputError(f"encoder {self.encoder!r:.40} is no name of a model")

    @property
    def options(self) -> dict[str, Any]:
        """All options, enough to build the attack again."""
        goal, *others = inspect.signature(type(self)).parameters
        # an option with an unusual default is always among them
        shared = self.settings.options() | {n: getattr(self.settings, n) for n in self.usual}
        own = {name: getattr(self, name) for name in others if name not in self.shared}
        return {
            goal: getattr(self, goal),
            **{n: value for n, value in shared.items() if n in others and n in self.shared},
            **{name: value for name, value in own.items() if value is not None},
        }

    def inject(
        self,
        pairs: PairDataset,
        entries: Sequence[PoisonedPair],
        goals: Sequence[Goal],
        seed: int,
        **more: Any,
    ) -> PairDataset:
        """Make the poisoned set, with its manifest.

        Args:
            pairs: The clean set.
            entries: The poisoned pairs.
            goals: The goals.
            seed: Seed of the run.
            **more: As for `poison_set`; by default the images lose the clean pairs that the carrier `own` takes.
        """
        return poison_set(
            pairs,
            entries,
            attack=self.name,
            options=self.options,
            goals=goals,
            mode=self.settings.mode,
            seed=seed,
            **{"dropped_images": images_without_honest_captions(entries, self.settings), **more},
        )


@dataclass
class LabelAttack(BaseAttack):
    """An attack with the options that most have: one goal, how many of its captions, and whose images carry them."""

    goal: str
    samples: int | None = None
    pairs: int | None = None
    _: KW_ONLY
    share: float | None = None
    carrier: Carrier | None = None


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
    names = sorted(set(inspect.signature(plug_in).parameters) - {"goal", "goals"})
    if unknown := [option for option in options if option not in names]:
        raise InputError(
            f"{where}{unknown[0]}: attack {name!r}: {unknown_name('option', unknown[0], names)}"
        )
    if takes_several_goals(name):
        return plug_in(goals=list(goals), **options)
    if len(goals) != 1:
        several = filter(takes_several_goals, ATTACKS)
        raise InputError(
            f"attack {name!r} has one goal, got {', '.join(goals) or 'none'}: "
            f"several goals at once are for {', '.join(several)}"
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
