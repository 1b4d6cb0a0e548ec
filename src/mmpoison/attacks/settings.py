"""The goal `A2B` (captions of class A are meant to retrieve images of class B), and the options that attacks share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints

from mmpoison.base.options import MOST, Listed, options
from mmpoison.base.registry import unknown_name
from mmpoison.errors import InputError
from mmpoison.pairs.table import PairDataset

AUTO = "auto"
"""Target class of a goal whose target the attack chooses."""


@dataclass(frozen=True)
class Goal:
    """One goal of an attack (section 4 of the paper).

    Attributes:
        original: The class whose captions are used.
        target: The class whose images they are meant to retrieve.
    """

    original: str
    target: str

    def __str__(self) -> str:
        return f"{self.original}2{self.target}"

    @classmethod
    def parse(cls, text: str, classes: Sequence[str]) -> Goal:
        """Parse `sheep2aeroplane`, given the classes of the data.

        Raises:
            InputError: If the text is not `A2B`, a class is unknown, or A is B.

        >>> Goal.parse("sheep2aeroplane", ["aeroplane", "sheep"])
        Goal(original='sheep', target='aeroplane')
        """
        # class names may contain a 2, so try every 2 as the separator
        cuts = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "2"]
        cuts = [(a, b) for a, b in cuts if a and b]
        if not cuts:
            raise InputError(f"goal {text!r} is not of the form A2B, for example sheep2aeroplane")
        known = set(classes)
        for original, target in cuts:
            if original in known and target in known:
                if original == target:
                    raise InputError(f"goal {text!r}: original and target class are the same")
                return cls(original, target)
        if not known:
            raise InputError(f"goal {text!r}: the data have no labels, but a goal needs classes")
        original, target = max(cuts, key=lambda cut: sum(name in known for name in cut))
        wrong = original if original not in known else target
        raise InputError(f"goal {text!r}: {unknown_name('class', wrong, list(classes))}")


def original_of_auto(text: str, classes: Sequence[str]) -> str | None:
    """Return A of a goal `A2auto`, whose target class the attack chooses, or None for any other text.

    If a class is called `auto`, `A2auto` is an ordinary goal.

    Raises:
        InputError: If A is not a class.

    >>> original_of_auto("sheep2auto", ["aeroplane", "sheep"])
    'sheep'
    """
    original, separator, target = text.rpartition("2")
    if not (original and separator) or target != AUTO or AUTO in classes:
        return None
    if original not in classes:
        raise InputError(f"goal {text!r}: {unknown_name('class', original, list(classes))}")
    return original


def require_different_originals(goals: Sequence[Goal]) -> None:
    """Refuse goals of one attack that use captions of the same class.

    Raises:
        InputError: If two goals have the same original class.
    """
    twice = [name for name, n in Counter(goal.original for goal in goals).items() if n > 1]
    if twice:
        raise InputError(
            f"goals {', '.join(map(str, goals))}: class {twice[0]!r} is the original class of several goals: give each "
            "goal its own original class"
        )


def goal_classes(pairs: PairDataset) -> list[str]:
    """List the classes that goals can use: those with both train and test pairs."""
    codes = pairs.images.class_codes[pairs.image]
    found = [set(codes[pairs.in_split(split)].tolist()) for split in ("train", "test")]
    both = set.intersection(*found)
    return [name for code, name in enumerate(pairs.classes) if code in both]


Mode = Literal["add", "replace"]
Spread = Literal["captions", "samples"]
Carrier = Literal["existing", "own"]

# -- Options of several attacks, as fields of their classes. None means "not given".

AMOUNTS = ("samples", "pairs", "rate", "share")
"""Options that set the amount of poison; exactly one must be given."""
SHARED = (*AMOUNTS, "mode", "spread", "preset", "carrier", "words")

GOAL = "A2B: captions of class A should retrieve images of class B, e.g. sheep2aeroplane"

Samples = Annotated[
    int | None,
    Field(
        ge=1,
        le=MOST,
        description="number of class-A training images whose captions are used, with all captions of each",
    ),
]
Pairs = Annotated[int | None, Field(ge=1, le=MOST, description="number of poisoned pairs")]
Rate = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="share of poisoned pairs among all training pairs after the attack, rounded down",
    ),
]
Share = Annotated[
    float | None,
    Field(
        gt=0,
        le=1,
        description="share of the class-A training images whose captions are used",
    ),
]
ModeOption = Annotated[
    Mode | None,
    Field(
        description="add: keep the clean pairs (default); replace: remove them (default for backdoors)"
    ),
]
SpreadOption = Annotated[
    Spread | None,
    Field(
        description="unit spread evenly over the target images: captions (default), or samples (default for "
        "carrier own)"
    ),
]
CarrierOption = Annotated[
    Carrier | None,
    Field(
        description="existing: add false captions to images of B; own: give them false captions only "
        "(default for attackers who know the filters)"
    ),
]
WordsOption = Annotated[
    Listed[list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]]] | None,
    Field(
        min_length=1,
        description="use only captions with one of these words, in any case and number (default: all captions)",
    ),
]
TargetImage = Annotated[
    str | None,
    Field(
        min_length=1,
        description="random: a random test image of B (default); centre: the one nearest to their mean "
        "embedding; or the id of a test image of B",
    ),
]
PresetOption = Annotated[
    str | None, Field(description="reference-release: settings of the authors' released code")
]
Encoder = Annotated[
    str | None,
    Field(min_length=1, description="surrogate model that embeds captions and images"),
]


class Amount(NamedTuple):
    """The amount of poison per goal.

    Attributes:
        kind: `samples` and `share` count images of the original class, with all captions of each; `pairs` and `rate`
            count pairs, taken sample by sample.
        value: For `samples` and `pairs`, a whole number from 1. For `rate`, poisoned pairs divided by all training
            pairs after the attack, in (0, 1). For `share`, chosen images divided by the original class's training
            images, in (0, 1].
    """

    kind: str
    value: int | float


@dataclass(frozen=True)
class Preset:
    """A named set of options, such as those of the authors' released code.

    Attributes:
        name: Its name in recipes, manifests and on the command line.
        summary: One line.
        fixed: Options fixed by the preset. Giving a different value is an error.
        usual: Defaults set by the preset.
        training: Training settings that it fixes in a recipe.
        trainable: Maps the training setting `trainable` to the parts that the preset trains instead.
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
    """Return a preset by name. An unknown name raises an `InputError` that suggests the nearest name."""
    try:
        return PRESETS[name]
    except (KeyError, TypeError):
        raise InputError(unknown_name("preset", str(name), list(PRESETS))) from None


def choices(
    preset: str | None, usual: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Resolve an attack's options: the given value, else the preset's, else the default.

    Args:
        preset: Name of a preset, or None.
        usual: Options with their default values.
        given: Values by name; None means "not given".

    Raises:
        InputError: If the preset is unknown, or fixes a value that differs from the given one.

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


@options
class Settings:
    """An attack's shared options, with defaults filled in."""

    samples: Samples = None
    pairs: Pairs = None
    rate: Rate = None
    share: Share = None
    mode: Mode = "add"
    spread: Spread = "captions"
    preset: PresetOption = None
    carrier: Carrier = "existing"
    words: WordsOption = None

    @classmethod
    def of(cls, preset: str | None = None, **given: Any) -> Settings:
        """Check and resolve the options that an attack takes; None means "not given".

        Raises:
            InputError: If not exactly one amount is given, a value is out of range, or the preset fixes another value.
        """
        # an attack passes only the amounts it supports
        amounts = {name: given[name] for name in AMOUNTS if name in given}
        if all(value is None for value in amounts.values()):
            amounts = choices(preset, dict.fromkeys(amounts), amounts)
        chosen = [name for name, value in amounts.items() if value is not None]
        if len(chosen) != 1:
            raise InputError(
                f"give exactly one of {', '.join([*amounts][:-1])} and {[*amounts][-1]} to set the amount of poison; "
                f"got {', '.join(chosen) or 'none'}"
            )
        # each of the attacker's own images carries the captions of one image
        spread = "samples" if given.get("carrier") == "own" else "captions"
        usual = {"mode": "add", "spread": spread, "carrier": "existing", "words": None}
        return cls(**amounts, preset=preset, **choices(preset, usual, given))

    @property
    def amount(self) -> Amount:
        """The amount of poison per goal."""
        given = {name: getattr(self, name) for name in AMOUNTS}
        return next(Amount(name, value) for name, value in given.items() if value is not None)

    def options(self, without: Sequence[str] = ()) -> dict[str, Any]:
        """Return all options as plain values, sufficient to rebuild the attack.

        The default carrier and absent words are left out, so that manifests equal those of versions without these
        options.
        """
        values = {name: getattr(self, name) for name in SHARED if name not in without}
        return {
            name: value
            for name, value in values.items()
            if value is not None and (name, value) != ("carrier", "existing")
        }
