"""The options that attacks share, and presets of them, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args

from mmpoison.base.option_checks import check_choice
from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError

Mode = Literal["add", "replace"]
MOST = 10**12
"""The largest number of samples or pairs that is accepted; the data limit it further."""

Spread = Literal["captions", "samples"]


Carrier = Literal["existing", "own"]
"""`existing` images keep their honest captions; the attacker's `own` images have only his captions."""


AMOUNTS = ("samples", "pairs", "rate", "share")


@dataclass(frozen=True)
class Amount:
    """The amount of poison of each goal.

    Attributes:
        kind: `samples` and `share` count images of the original class, with all captions of each; `pairs` and `rate`
            count pairs, taken sample by sample.
        value: A whole number from 1; of `rate`, poisoned pairs divided by all training pairs after the attack, in
            (0, 1); of `share`, chosen images divided by the training images of the original class, in (0, 1].
    """

    kind: Literal["samples", "pairs", "rate", "share"]
    value: int | float

    @classmethod
    def of(cls, **given: Any) -> Amount:
        """Return the one amount that is not None.

        Raises:
            InputError: If none or several are given, or the one is no number in its range.

        >>> Amount.of(samples=25, pairs=None, rate=None, share=None)
        Amount(kind='samples', value=25)
        """
        chosen: dict[Any, Any] = {n: value for n, value in given.items() if value is not None}
        if len(chosen) != 1:
            raise InputError(
                f"give exactly one of {', '.join([*given][:-1])} and {[*given][-1]}, which says how much to "
                f"poison; got {', '.join(chosen) or 'none'}"
            )
        ((kind, value),) = chosen.items()
        whole = kind in ("samples", "pairs")
        number: Any = Integral if whole else Real
        if isinstance(value, bool) or not isinstance(value, number):
            raise InputError(f"{kind} {value!r} is not a {'whole ' if whole else ''}number")
        if kind == "rate" and not 0 < value < 1:
            raise InputError(f"rate {value} is not between 0 and 1 (0.005 is half a percent)")
        if kind == "share" and not 0 < value <= 1:
            raise InputError(
                f"share {value} is not over 0 and at most 1 (0.5 is half the images of the class)"
            )
        if whole and value < 1:
            raise InputError(f"{kind} {value}: give at least 1, otherwise nothing is poisoned")
        if whole and value > MOST:
            raise InputError(f"{kind} is more than {MOST:,}: give 1 to that")
        return cls(kind, int(value) if whole else float(value))


@dataclass(frozen=True)
class Preset:
    """A named set of options, such as those of the authors' released code.

    Attributes:
        name: Its name in recipes, manifests and on the command line.
        summary: One line.
        fixed: Options of attacks that it fixes; a different value together with the preset is an error.
        usual: Options that it sets unless another value is given.
        training: Training settings that it fixes in a recipe.
        trainable: From the training setting `trainable` to what the preset trains instead.
    """

    name: str
    summary: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    trainable: Mapping[str, str] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "reference-release": Preset(
        name="reference-release",
        summary=(
            "the choices of the paper authors' released code: poison replaces the clean pairs of the whole class, "
            "all captions of an image go to the same target image, attack I targets the centre of the class, batches "
            "of 256, a frozen text encoder keeps its embeddings and projection trainable"
        ),
        fixed={"mode": "replace", "spread": "samples"},
        usual={"share": 1.0, "target_image": "centre"},
        training={"batch_size": 256},
        trainable={"image": "text-transformer-frozen"},
    )
}


def find_preset(name: str) -> Preset:
    """Return a preset by name; an unknown name is an `InputError` that suggests the nearest one."""
    try:
        return PRESETS[name]
    except (KeyError, TypeError):
        raise InputError(unknown_name("preset", str(name), list(PRESETS))) from None


def choices(
    preset: str | None, usual: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Resolve the options of an attack: the given value, else the preset's, else the default.

    Args:
        preset: Name of a preset, or None.
        usual: The options with their default values.
        given: Values by name; None means "not given".

    Raises:
        InputError: If the preset is unknown, or fixes another value than the given one.

    >>> choices("reference-release", {"mode": "add", "spread": "captions"}, {"mode": None})
    {'mode': 'replace', 'spread': 'samples'}
    """
    chosen = find_preset(preset) if preset is not None else Preset("", "")
    values: dict[str, Any] = {}
    for name, default in usual.items():
        fixed = chosen.fixed.get(name)
        value = given.get(name)
        if value is None:
            value = fixed if fixed is not None else chosen.usual.get(name, default)
        elif fixed is not None and value != fixed:
            raise InputError(
                f"preset {preset!r} sets {name}={fixed}, but {name}={value} was given: remove one of the two"
            )
        values[name] = value
    return values


@dataclass(frozen=True)
class Settings:
    """The shared options of an attack: amount, mode, spread, carrier and preset.

    Attributes:
        amount: How much of each goal is poisoned.
        mode: `add` or `replace`.
        spread: What is distributed over the target images, `captions` or `samples`.
        preset: Name of the preset, or None.
        carrier: Whose images carry the poison, `existing` or `own`.
        words: Only captions with one of these words are misused; empty for all of the class.
    """

    amount: Amount
    mode: Mode
    spread: Spread
    preset: str | None
    carrier: Carrier = "existing"
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, preset: str | None, **given: Any) -> Settings:
        """Check the options of an attack; None means "not given".

        Raises:
            InputError: If not exactly one amount is given, a value is out of range, or the preset fixes another value.
        """
        # an attack passes the amounts that it has
        amount = {name: given[name] for name in AMOUNTS if name in given}
        if all(value is None for value in amount.values()):
            amount = choices(preset, dict.fromkeys(amount), amount)
        # an image of the attacker's own carries the captions of one image
        spread = "samples" if given.get("carrier") == "own" else "captions"
        usual = {"mode": "add", "spread": spread, "carrier": "existing"}
        chosen: dict[str, Any] = choices(preset, usual, given)
        for name, known in (("mode", Mode), ("spread", Spread), ("carrier", Carrier)):
            check_choice(name, chosen[name], get_args(known))
        checked = Amount.of(**amount)
        return cls(checked, **chosen, preset=preset, words=_words(given.get("words")))

    def options(self, without: Sequence[str] = ()) -> dict[str, Any]:
        """Return all options as plain values, enough to build the attack again.

        The default carrier and words that are not given are left out, so that manifests are those of versions that had
        no other.
        """
        values: dict[str, Any] = {self.amount.kind: self.amount.value}
        values |= {"mode": self.mode, "spread": self.spread}
        if self.preset is not None:
            values["preset"] = self.preset
        if self.carrier != "existing":
            values["carrier"] = self.carrier
        if self.words:
            values["words"] = list(self.words)
        return {name: value for name, value in values.items() if name not in without}


def _words(given: Any) -> tuple[str, ...]:
    """Check the words that a misused caption must hold one of.

    Raises:
        InputError: If they are no list of words.
    """
    if given is None:
        return ()
    words = [given] if isinstance(given, str) else given
    listed = isinstance(words, list | tuple) and len(words) > 0
    if not listed or not all(isinstance(word, str) and word.strip() for word in words):
        raise InputError(
            f"words {given!r:.60}: a list of words is needed, for example [sheep, lamb, goat]"
        )
    return tuple(" ".join(word.split()) for word in words)
