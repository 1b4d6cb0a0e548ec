"""Options that the paper's attacks share, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from mmpoison.attacks.amount import MODES, Amount, Mode
from mmpoison.attacks.pairing import CARRIERS, SPREADS, Carrier, Spread
from mmpoison.attacks.presets import choices
from mmpoison.errors import InputError

AMOUNTS = ("samples", "pairs", "rate", "share")


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
        for name, known in (("mode", MODES), ("spread", SPREADS), ("carrier", CARRIERS)):
            if chosen[name] not in known:
                raise InputError(f"{name} {chosen[name]!r} is neither {' nor '.join(known)}")
        return cls(
            Amount.of(**amount),
            cast("Mode", chosen["mode"]),
            cast("Spread", chosen["spread"]),
            preset,
            cast("Carrier", chosen["carrier"]),
            _words(given.get("words")),
        )

    def options(self, without: Sequence[str] = ()) -> dict[str, Any]:
        """Return all options as plain values, enough to build the attack again.

        The default carrier and words that are not given are left out, so that manifests are those of versions that had
        no other.
        """
        values: dict[str, Any] = {**self.amount.option, "mode": self.mode, "spread": self.spread}
        if self.preset is not None:
            values["preset"] = self.preset
        if self.carrier != "existing":
            values["carrier"] = self.carrier
        if self.words:
            values["words"] = list(self.words)
        return {name: value for name, value in values.items() if name not in without}


def _words(given: object) -> tuple[str, ...]:
    """Check the words that a misused caption must hold one of.

    Raises:
        InputError: If they are no list of words.
    """
    if given is None:
        return ()
    words = [given] if isinstance(given, str) else given
    if (
        not isinstance(words, (list, tuple))
        or not words
        or not all(isinstance(word, str) and word.strip() for word in words)
    ):
        raise InputError(
            f"words {given!r:.60}: a list of words is needed, for example [sheep, lamb, goat]"
        )
    return tuple(" ".join(word.split()) for word in words)
