"""The manifest, which every poisoned set has: what was poisoned, how, and from which clean set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mmpoison.base.files import write_json
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError

Whole = Annotated[int, msgspec.Meta(ge=0)]
Mode = Annotated[str, msgspec.Meta(pattern=r"\A(add|replace)\Z")]

NOTICE = (
    "This set was poisoned on purpose, for research on defences. The pairs listed here are false. "
    "Do not publish it and do not train a model for use on it."
)


@dataclass(frozen=True)
class PoisonedPair:
    """One false pair: a caption, its true image, and its false image."""

    caption: str
    clean_image: str
    poisoned_image: str
    goal: str


@dataclass(frozen=True)
class AddedImage:
    """An image that the attack created.

    Attributes:
        made_from: The clean image that it was created from.
        pixels: sha256 of its pixels (`images.added.pixels_digest`).
        how: What the manifest's trigger needs to recreate it; empty without a trigger.
    """

    made_from: str
    pixels: str
    how: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PoisonManifest:
    """Everything needed to recognise, remove or rebuild the poison.

    Attributes:
        attack: Registered name of the attack.
        options: The attack's options as given, sufficient to run it again.
        goals: The goals, as `A2B`.
        mode: `add` (poison is added to the clean pairs) or `replace` (it replaces clean pairs).
        seed: Seed of the run.
        clean_fingerprint: sha256 of the clean table.
        clean_pairs: Training pairs before the attack.
        training_pairs: Training pairs after it.
        pairs: The poisoned pairs.
        tool_version: Version of mmpoison that made it.
        fingerprint: sha256 of the poisoned table; empty in manifests of older versions.
        target_images: For attacks on single target images: maps each goal to the id of its target image in the gallery.
        dropped_images: Images whose clean training pairs were also removed, such as the attacker's own images
            (`carrier: own`).
        added_images: Images created by the attack, by id. They are training images, have the labels of their clean
            images, and are the last rows of the table.
        trigger: A backdoor's trigger, which recreates them from those images (`images.triggers`); None if they can only
            be copied.
        notes: Notes of the attack on its result, one line each, for example that it found fewer pairs than requested.
        filtered: What a filter did to the set afterwards, or None. Clean pairs may then be missing.
    """

    attack: str
    options: Mapping[str, Any]
    goals: tuple[str, ...]
    mode: Mode
    seed: Whole
    clean_fingerprint: str
    clean_pairs: Whole
    training_pairs: Whole
    pairs: tuple[PoisonedPair, ...] = field(repr=False)
    tool_version: str = ""
    fingerprint: str = ""
    target_images: Mapping[str, str] = field(default_factory=dict)
    dropped_images: tuple[str, ...] = ()
    added_images: Mapping[str, AddedImage] = field(default_factory=dict, repr=False)
    trigger: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    filtered: Mapping[str, Any] | None = None

    @property
    def rate(self) -> float:
        """Poisoned pairs divided by all training pairs, in [0, 1]; 0 only if a filter dropped all of them."""
        return len(self.pairs) / self.training_pairs

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values, in the fixed layout."""
        optional = {
            "fingerprint": self.fingerprint,
            "target_images": dict(self.target_images),
            "dropped_images": list(self.dropped_images),
            "trigger": self.trigger and dict(self.trigger),
            "notes": list(self.notes),
        }
        behind = {
            "added_images": {name: asdict(new) for name, new in self.added_images.items()},
            "filtered": self.filtered and dict(self.filtered),
        }
        return {
            "notice": NOTICE,
            "tool": "mmpoison",
            "tool_version": self.tool_version,
            "attack": self.attack,
            "options": dict(self.options),
            "goals": list(self.goals),
            "mode": self.mode,
            "seed": self.seed,
            "rate": self.rate,
            "counts": {
                "poisoned_pairs": len(self.pairs),
                "poisoned_samples": len({pair.clean_image for pair in self.pairs}),
                "target_images": len({pair.poisoned_image for pair in self.pairs}),
                "clean_training_pairs": self.clean_pairs,
                "training_pairs": self.training_pairs,
            },
            "clean_fingerprint": self.clean_fingerprint,
            **{name: content for name, content in optional.items() if content},
            "pairs": [asdict(pair) for pair in self.pairs],
            **{name: content for name, content in behind.items() if content},
        }

    def write(self, path: Path) -> None:
        """Write `manifest.json` atomically."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> PoisonManifest:
        """Read `manifest.json`.

        Raises:
            InputError: If the file is missing, broken or lacks a field.
        """
        value = read_json(path)
        try:
            # half a surrogate pair is not valid text
            json.dumps(value, ensure_ascii=False).encode()
            said = msgspec.convert(value, _Said)
            counts = {
                "clean_pairs": said.counts["clean_training_pairs"],
                "training_pairs": said.counts["training_pairs"],
            }
            manifest = msgspec.convert({**value, **counts}, cls)
            if not 0 < manifest.training_pairs >= len(manifest.pairs):
                raise ValueError(f"{manifest.training_pairs} training pairs")
            figures = {"rate": manifest.rate, **manifest.to_json()["counts"]}
            for name, figure in figures.items():
                claimed = said.rate if name == "rate" else said.counts[name]
                if abs(claimed - figure) > 1e-9:
                    raise ValueError(f"it says {name} {claimed}, but its pairs make {figure}")
            return manifest
        except (KeyError, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}: not a poison manifest ({fault[:300]})") from None


class _Said(msgspec.Struct):
    """Fields required in `manifest.json`, although they can be computed from others or have a default here."""

    counts: dict[str, Whole]
    rate: float
    tool_version: str
