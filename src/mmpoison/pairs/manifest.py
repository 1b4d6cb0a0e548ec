"""The manifest: what was poisoned, how, and from which clean set; every poisoned set has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmpoison.base.files import write_json
from mmpoison.base.untrusted import read_json
from mmpoison.errors import InputError

NOTICE = (
    "This set was poisoned on purpose, for research on defences. The pairs listed here are false. "
    "Do not publish it and do not train a model for use on it."
)


@dataclass(frozen=True)
class PoisonedPair:
    """One false pair: a caption, the image it was written for, and the image it is now with."""

    caption: str
    clean_image: str
    poisoned_image: str
    goal: str


@dataclass(frozen=True)
class PoisonManifest:
    """Everything needed to recognise, remove or rebuild the poison.

    Attributes:
        attack: Registered name of the attack.
        options: The attack's options as given, enough to run it again.
        goals: The goals, as `A2B`.
        mode: `add` (poison is added to the clean pairs) or `replace` (it takes their place).
        seed: Seed of the run.
        clean_fingerprint: sha256 of the clean table.
        clean_pairs: Training pairs before the attack.
        training_pairs: Training pairs after it.
        pairs: The poisoned pairs.
        tool_version: Version of mmpoison that made it.
        fingerprint: sha256 of the poisoned table; empty where an older version made it.
        target_images: Of an attack on single target images: goal to the id of its one target image, in the gallery.
        dropped_images: Images whose clean training pairs were taken out in addition to those of the poisoned captions.
        filtered: What a filter did to the set afterwards, or None; clean pairs may be missing then.
    """

    attack: str
    options: Mapping[str, Any]
    goals: tuple[str, ...]
    mode: str
    seed: int
    clean_fingerprint: str
    clean_pairs: int
    training_pairs: int
    pairs: tuple[PoisonedPair, ...] = field(repr=False)
    tool_version: str = ""
    fingerprint: str = ""
    target_images: Mapping[str, str] = field(default_factory=dict)
    dropped_images: tuple[str, ...] = ()
    filtered: Mapping[str, Any] | None = None

    @property
    def rate(self) -> float:
        """Poisoned pairs divided by all training pairs, in [0, 1]; 0 only if a filter caught them all."""
        return len(self.pairs) / self.training_pairs

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain JSON values, in the fixed layout."""
        value: dict[str, Any] = {
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
            **({"fingerprint": self.fingerprint} if self.fingerprint else {}),
            **({"target_images": dict(self.target_images)} if self.target_images else {}),
            **({"dropped_images": list(self.dropped_images)} if self.dropped_images else {}),
            "pairs": [asdict(pair) for pair in self.pairs],
        }
        if self.filtered is not None:
            value["filtered"] = dict(self.filtered)
        return value

    def write(self, path: Path) -> None:
        """Write `manifest.json`, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: Path) -> PoisonManifest:
        """Read `manifest.json`.

        Raises:
            InputError: If the file is missing, broken or lacks a field.
        """
        value = read_json(path)
        try:
            counts = _table(value["counts"])
            manifest = cls(
                attack=_text(value["attack"]),
                options=_table(value["options"]),
                goals=tuple(map(_text, _list(value["goals"]))),
                mode=_text(value["mode"]),
                seed=_whole(value["seed"]),
                clean_fingerprint=_text(value["clean_fingerprint"]),
                clean_pairs=_whole(counts["clean_training_pairs"]),
                training_pairs=_whole(counts["training_pairs"]),
                pairs=tuple(
                    PoisonedPair(
                        *(_text(p[k]) for k in ("caption", "clean_image", "poisoned_image", "goal"))
                    )
                    for p in _list(value["pairs"])
                ),
                tool_version=_text(value["tool_version"]),
                fingerprint=_text(value.get("fingerprint", "")),
                target_images={
                    _text(goal): _text(image)
                    for goal, image in _table(value.get("target_images", {})).items()
                },
                dropped_images=tuple(map(_text, _list(value.get("dropped_images", [])))),
                filtered=None if value.get("filtered") is None else _table(value["filtered"]),
            )
            if manifest.mode not in ("add", "replace"):
                raise ValueError(f"mode {manifest.mode!r:.40} is none of add, replace")
            if not 0 < manifest.training_pairs >= len(manifest.pairs):
                raise ValueError(f"{manifest.training_pairs} training pairs")
            figures = manifest.to_json()
            for name, figure in {"rate": manifest.rate, **figures["counts"]}.items():
                said = value["rate"] if name == "rate" else value["counts"][name]
                if abs(said - figure) > 1e-9:
                    raise ValueError(f"it says {name} {said}, its pairs make {figure}")
            return manifest
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}: not a poison manifest ({said[:300]})") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {value!r:.60}")
    value.encode()  # half a surrogate pair is a ValueError
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"a whole number from 0 is needed, not {value!r:.60}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list is needed, not {value!r:.60}")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"an object is needed, not {value!r:.60}")
    return value
