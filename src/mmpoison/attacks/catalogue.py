"""The interface of attacks, the registry that finds them, and how to build one from its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from mmpoison.attacks.surrogate import Surrogate
from mmpoison.base.registry import Registry, unknown_name
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

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

        An attack whose property `needs_embeddings` is true also takes `embed`, a `Surrogate`.
        """
        ...


ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    "mmpoison.attacks",
    group="mmpoison.attacks",
    needs=("name", "kind", "source", "section", "summary", "options", "poison"),
)


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
        # on the command line as it was typed
        shown = unknown[0].replace("_", "-") if where == "--" else unknown[0]
        raise InputError(
            f"{where}{shown}: attack {name!r}: {unknown_name('option', unknown[0], names)}"
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
    attack: Attack, pairs: PairDataset, seed: int, embedder: Callable[[str | None], Surrogate]
) -> PairDataset:
    """Poison a set, with embeddings where the attack needs them.

    Args:
        attack: The attack.
        pairs: A clean set.
        seed: Seed of the run.
        embedder: Gives `embed` for the name of an encoder, None where the attack names none; called only if needed.
    """
    if getattr(attack, "needs_embeddings", False):
        poison: Callable[..., PairDataset] = attack.poison
        return poison(pairs, seed, embed=embedder(getattr(attack, "encoder", None)))
    return attack.poison(pairs, seed)
