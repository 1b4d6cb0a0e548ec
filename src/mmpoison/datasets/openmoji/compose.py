"""Puts a scene together: a place, the main object, perhaps company and small things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmpoison.base.seeding import stream_key
from mmpoison.base.text import capitalized
from mmpoison.datasets.openmoji.backgrounds import Canvas, paint
from mmpoison.datasets.openmoji.scene_data import (
    CLASS_FACTS,
    OPENMOJI_SCENES_VERSION,
    PLACES,
    SETTINGS,
    TEMPLATES,
    Place,
    Pool,
    Sprite,
    load_sprites,
    sprites_of,
)
from mmpoison.pairs.labels import plural as regular_plural

# -- Five English captions a scene, from the facts the composer knows.


CAPTIONS_PER_SCENE = 5
MAX_WORDS = 16

# Written with a vowel but said with a consonant: "a ewe", never "an ewe".
_A_BEFORE_VOWEL = ("ewe", "uni", "use", "eu")
_IRREGULAR: Mapping[str, str] = {
    "sheep": "sheep", "man": "men", "woman": "women", "person": "people", "child": "children",
    "guy": "guys", "calf": "calves", "goose": "geese", "police officer": "police officers",
    "bull": "bulls",
}  # fmt: skip
_NUMBERS: Mapping[int, tuple[str, ...]] = {2: ("two", "two", "a pair of"), 3: ("three", "three")}
_SIZE_WORDS = ("big", "large")

_HEADS = ("looking at the camera", "staring", "watching")


@dataclass(frozen=True)
class SceneFacts:
    """The facts that a caption of a scene may state.

    Attributes:
        label: the main object's class.
        main: the main object's drawing.
        count: how many of the main class there are, 1 to 3.
        place: where.
        large: the main object fills most of the image.
        airborne: it flies.
        company: the drawing of the other object, or ``None``.
        distractor: noun of a small thing, or ``None``.
    """

    label: str
    main: Sprite
    count: int
    place: Place
    large: bool
    airborne: bool
    company: Sprite | None
    distractor: str | None


def article(phrase: str) -> str:
    """``phrase`` with its indefinite article.

    >>> article("ewe"), article("orange car"), article("aeroplane")
    ('a ewe', 'an orange car', 'an aeroplane')
    """
    vowel = phrase[0] in "aeiou" and not phrase.startswith(_A_BEFORE_VOWEL)
    return f"{'an' if vowel else 'a'} {phrase}"


def plural(noun: str) -> str:
    """Return the plural; in a noun with "on", "in", "of" or "with", the word before that is inflected.

    >>> plural("sheep"), plural("old woman"), plural("rider on a horse"), plural("puppy")
    ('sheep', 'old women', 'riders on horses', 'puppies')
    """
    for link in (" on a ", " in a "):
        head, found, tail = noun.partition(link)
        if found:
            return f"{plural(head)}{link.removesuffix('a ')}{plural(tail)}"
    for link in (" of ", " with "):
        head, found, tail = noun.partition(link)
        if found:
            return f"{plural(head)}{found}{tail}"
    first, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        return first + space + _IRREGULAR[last]
    return regular_plural(noun)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _main_phrase(rng: np.random.Generator, facts: SceneFacts, *, plain: bool = False) -> str:
    """Describe the main object: number, perhaps a size, a trait or its colour, and the noun."""
    # The first noun is the commonest, as it is in people's captions.
    noun = facts.main.nouns[0] if rng.random() < 0.35 else _pick(rng, facts.main.nouns)
    compound = " on a " in noun  # "a strong jockey on a horse" would praise the wrong one
    words = []
    if not plain:
        chance = rng.random()
        if facts.main.colour is not None and chance < 0.45:
            words.append(facts.main.colour)
        elif (traits := CLASS_FACTS[facts.label].traits) and chance < 0.57 and not compound:
            words.append(_pick(rng, traits))
        elif facts.large and chance < 0.68 and facts.label != "person" and not compound:
            words.append(_pick(rng, _SIZE_WORDS))
    if facts.count > 1:
        return " ".join((_pick(rng, _NUMBERS[facts.count]), *words, plural(noun)))
    return article(" ".join((*words, noun)))


def _act(rng: np.random.Generator, facts: SceneFacts) -> str:
    if facts.airborne:
        return _pick(rng, CLASS_FACTS[facts.label].flight)
    if facts.main.acts:
        return _pick(rng, facts.main.acts)
    return _pick(rng, _HEADS if facts.main.pose == "face" else CLASS_FACTS[facts.label].acts)


def write_captions(rng: np.random.Generator, facts: SceneFacts) -> tuple[str, ...]:
    """Five captions that differ from each other, of 16 words at most.

    Every one names the main object; number, colour, place, company and the small thing each
    appear in some.
    """
    templates = list(TEMPLATES["always"])
    if facts.large and facts.count == 1:
        templates += TEMPLATES["large"]
    if facts.company:
        templates += TEMPLATES["company"]
    if facts.distractor is not None:
        templates += TEMPLATES["distractor"]
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_SCENE:
        template = templates.pop(int(rng.random() * len(templates)))
        caption = _fill(rng, template, facts)
        if caption not in captions and caption.count(" ") < MAX_WORDS:
            captions.append(caption)
    return tuple(captions)


def _fill(rng: np.random.Generator, template: str, facts: SceneFacts) -> str:
    main = _main_phrase(rng, facts)
    where = _pick(rng, facts.place.phrases)
    company = article(_pick(rng, facts.company.nouns)) if facts.company else ""
    bare = _main_phrase(rng, facts, plain=True)
    return template.format(
        N=capitalized(main),
        n=main,
        h=capitalized(bare),
        g=_act(rng, facts),
        p=where,
        P=capitalized(where),
        c=company,
        d=article(facts.distractor) if facts.distractor is not None else "",
        # "A pair of sheep is", but "two sheep are".
        **{"is": "are" if facts.count > 1 and not main.startswith("a ") else "is"},
    )


_SIZES: Mapping[int, tuple[float, float]] = {1: (0.58, 0.84), 2: (0.44, 0.54), 3: (0.36, 0.42)}


@dataclass(frozen=True)
class Scene:
    """One composed picture.

    Attributes:
        image: ``(size, size, 3)`` uint8, RGB.
        captions: five captions that differ from each other.
        label: the main object's class.
        sprites: names of the sprites of the 20 classes in it, the main object's first.
    """

    image: NDArray[np.uint8]
    captions: tuple[str, ...]
    label: str
    sprites: tuple[str, ...]


@lru_cache(maxsize=64)
def _palette(label: str, pool: Pool) -> tuple[tuple[Sprite, ...], ...]:
    """Group a class's sprites by drawing, so that many colours do not outvote other drawings."""
    groups: dict[str, list[Sprite]] = {}
    for sprite in sprites_of(label, pool):
        groups.setdefault(sprite.family, []).append(sprite)
    return tuple(tuple(group) for group in groups.values())


@lru_cache(maxsize=64)
def _place_table(label: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    weights = CLASS_FACTS[label].places
    return tuple(weights), _cumulative(weights)


def _cumulative(weights: Mapping[str, float]) -> tuple[float, ...]:
    total = sum(weights.values())
    running = np.cumsum(list(weights.values())) / total
    return tuple(float(value) for value in running)


def _draw(rng: np.random.Generator, names: tuple[str, ...], cumulative: tuple[float, ...]) -> str:
    found = np.searchsorted(cumulative, rng.random(), side="right")
    return names[min(int(found), len(names) - 1)]


def _pick_sprite(rng: np.random.Generator, label: str, pool: Pool, *, whole: bool) -> Sprite:
    """Draw a sprite of the class; with ``whole``, no head or bust if there is another one."""
    groups = _palette(label, pool)
    if whole:
        groups = tuple(g for g in groups if g[0].pose in ("ground", "air")) or groups
    group = groups[int(rng.random() * len(groups))]
    return group[int(rng.random() * len(group))]


def _pick_flyer(rng: np.random.Generator, label: str, pool: Pool) -> Sprite:
    flyers = [s for group in _palette(label, pool) for s in group if s.pose == "air"]
    return flyers[int(rng.random() * len(flyers))]


class _Stage:
    """The canvas with what is needed to put sprites on it."""

    def __init__(self, canvas: Canvas, horizon: float, rng: np.random.Generator, size: int) -> None:
        self.canvas = canvas
        self.horizon = horizon
        self.rng = rng
        self.size = size

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def put(
        self,
        name: str,
        side: float,
        *,
        x: float,
        bottom: float | None = None,
        centre: float | None = None,
        turn: float = 0.0,
        shadow: bool = False,
        mirror: bool = True,
    ) -> None:
        """Draw a sprite ``side`` long (fraction of the image) with its middle at ``x``.

        Vertically it either stands at ``bottom`` or has its middle at ``centre``.
        """
        source = load_sprites()[name]
        scale = side * self.size / max(source.size)
        width = max(2, round(source.width * scale))
        height = max(2, round(source.height * scale))
        image = source.resize((width, height), Image.Resampling.BILINEAR)
        if mirror and self.rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if turn:
            image = image.rotate(turn, Image.Resampling.BICUBIC, expand=True)
        left = round(x * self.size - image.width / 2)
        if bottom is not None:
            top = round(bottom * self.size) - image.height
        else:
            top = round((0.5 if centre is None else centre) * self.size - image.height / 2)
        if shadow:
            self._shadow(left + image.width / 2, top + image.height, width)
        self._blend(np.asarray(image), left, top)

    def _shadow(self, x: float, y: float, width: int) -> None:
        half, depth = max(2, round(width * 0.48)), max(1, round(self.size * 0.035))
        x0, x1 = max(0, round(x) - half), min(self.size, round(x) + half)
        y0, y1 = max(0, round(y) - 2 * depth), min(self.size, round(y) + depth)
        if x1 <= x0 or y1 <= y0:
            return
        across = ((np.arange(x0, x1, dtype=np.float32) + 0.5 - x) / half) ** 2
        down = ((np.arange(y0, y1, dtype=np.float32) + 0.5 - y + depth / 2) / (1.5 * depth)) ** 2
        dark = np.clip(1.0 - across[None, :] - down[:, None], 0, 1) * np.float32(0.5)
        self.canvas[y0:y1, x0:x1] *= 1 - dark[..., None]

    def _blend(self, pixels: NDArray[np.uint8], left: int, top: int) -> None:
        y0, y1 = max(0, top), min(self.size, top + pixels.shape[0])
        x0, x1 = max(0, left), min(self.size, left + pixels.shape[1])
        if x1 <= x0 or y1 <= y0:
            return
        part = pixels[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
        # Colour jitter: each channel by itself a little, and all together.
        gain = (0.94 + 0.12 * self.rng.random(3, np.float32)) * self.between(0.88, 1.06)
        region = self.canvas[y0:y1, x0:x1]
        region *= 1 - part[..., 3:] * np.float32(1 / 255)
        region += part[..., :3] * gain.astype(np.float32)


def compose_scene(
    label: str, rng: np.random.Generator, *, pool: Pool = "demo", size: int = 64
) -> Scene:
    """Compose one scene of a class.

    Args:
        label: One of ``CLASSES``.
        rng: Source of all random choices.
        pool: "pretraining" or "demo": which sprites and colours may appear.
        size: Side of the square image in pixels.

    Returns:
        The scene: image ``(size, size, 3)`` uint8 and five captions.

    >>> scene = compose_scene("sheep", np.random.default_rng(0))
    >>> scene.image.shape, len(scene.captions), scene.label
    ((64, 64, 3), 5, 'sheep')
    """
    place = PLACES[_draw(rng, *_place_table(label))]
    flies = place.setting == "sky"
    main = (
        _pick_flyer(rng, label, pool)
        if flies
        else _pick_sprite(rng, label, pool, whole=place.layout == "water")
    )
    count = _draw_count(rng, label, main)
    canvas, horizon = paint(place, rng, pool, size)
    stage = _Stage(canvas, horizon, rng, size)

    low, high = _SIZES[count]
    if CLASS_FACTS[label].wide and count == 1:
        low, high = low + 0.1, high + 0.06
    side = stage.between(low, high)
    distractor = _add_distractors(stage, place, flies=flies, hidden=count > 1 or side > 0.74)
    company, lean = None, 0.0
    if count < 3 and main.pose != "bust" and rng.random() < 0.2:
        # The main object makes room for the other one.
        side, lean = side * 0.86, 0.08 if rng.random() < 0.5 else -0.08
        company = _add_company(stage, label, place, pool, side, on_left=lean > 0)
    _add_main(stage, label, main, count, side, flies=flies, lean=lean)
    if not flies and main.pose == "ground" and rng.random() < 0.16:
        _add_foreground(stage, place)
    facts = SceneFacts(label, main, count, place, side > 0.7, flies, company, distractor)
    captions = write_captions(rng, facts)
    sprites = (main.name,) * count + ((company.name,) if company is not None else ())
    image = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
    return Scene(image, captions, label, sprites)


def _draw_count(rng: np.random.Generator, label: str, main: Sprite) -> int:
    two, three = CLASS_FACTS[label].several
    ticket = rng.random()
    if ticket < three and main.pose != "bust":
        return 3
    return 2 if ticket < two + three else 1


def _add_distractors(stage: _Stage, place: Place, *, flies: bool, hidden: bool) -> str | None:
    """Up to two small things; returns the noun of one that the main object will not hide.

    ``hidden`` says that the main object will cover most of the ground.
    """
    noun = None
    options = SETTINGS[place.setting].distractors
    chance = stage.rng.random()
    for _ in range(0 if chance < 0.45 else 1 if chance < 0.8 else 2):
        code, name, where = options[int(stage.rng.random() * len(options))]
        # Away from the middle, where the main object will not hide it.
        x = stage.between(0.06, 0.18) if stage.rng.random() < 0.5 else stage.between(0.82, 0.94)
        side = stage.between(0.16, 0.26)
        if flies or where == "up":
            centre = stage.between(0.1, 0.26)
            stage.put(code, side, x=x, centre=centre, mirror=False)
            noun = name
        else:
            ground = min(0.96, stage.horizon + stage.between(0.03, 0.2))
            stage.put(code, side, x=x, bottom=ground, mirror=False)
            noun = noun if hidden else name
    return noun


def _add_company(
    stage: _Stage, label: str, place: Place, pool: Pool, side: float, *, on_left: bool
) -> Sprite | None:
    """Add one object of another class behind the main one, at most 0.6 of its size."""
    others = [other for other in SETTINGS[place.setting].company if other != label]
    if not others:
        return None
    other = others[int(stage.rng.random() * len(others))]
    sprite = (
        _pick_flyer(stage.rng, other, pool)
        if place.setting == "sky" or (place.setting == "water" and other == "bird")
        else _pick_sprite(stage.rng, other, pool, whole=True)
    )
    small = side * stage.between(0.42, 0.58)
    x = stage.between(0.13, 0.18) if on_left else stage.between(0.82, 0.87)
    if sprite.pose == "air":
        stage.put(sprite.name, small, x=x, centre=stage.between(0.14, 0.3))
    else:
        ground = min(0.97, stage.horizon + stage.between(0.14, 0.26))
        stage.put(sprite.name, small, x=x, bottom=ground, shadow=place.setting != "water")
    return sprite


def _add_main(
    stage: _Stage, label: str, main: Sprite, count: int, side: float, *, flies: bool, lean: float
) -> None:
    """Add the main object, once or a few times side by side, ``lean`` off the middle."""
    middle = (count - 1) / 2
    spacing = 0.46 if count == 2 else 0.31
    for index in range(count):
        x = 0.5 + lean + (index - middle) * spacing + stage.between(-0.06, 0.06)
        # One in nine reaches over the edge of the picture.
        if count == 1 and not lean and stage.rng.random() < 0.11:
            x += 0.16 if stage.rng.random() < 0.5 else -0.16
        own = side * stage.between(0.88, 1.0)
        if flies:
            centre = stage.between(0.42, 0.58) + (0.12 * (-1) ** index if count > 1 else 0)
            swing = 35.0 if label == "aeroplane" else 18.0
            stage.put(main.name, own, x=x, centre=centre, turn=stage.between(-swing, swing))
        elif main.pose == "bust":
            stage.put(main.name, own * 1.04, x=x, bottom=1.01)
        elif main.pose == "air" and label == "bird":
            stage.put(main.name, own, x=x, centre=stage.between(0.42, 0.54))
        elif main.pose == "face":
            stage.put(
                main.name,
                own * 0.95,
                x=x,
                centre=stage.between(0.5, 0.6),
                turn=stage.between(-9, 9),
            )
        else:
            lowest = 0.97 if count == 1 else stage.between(0.88, 0.97)
            bottom = max(stage.horizon + 0.1, lowest - stage.between(0, 0.1))
            turn = stage.between(-4, 4) if stage.rng.random() < 0.5 else 0.0
            stage.put(
                main.name, own, x=x, bottom=min(0.98, bottom), turn=turn, shadow=label != "boat"
            )


def _add_foreground(stage: _Stage, place: Place) -> None:
    """Add a small thing in front of the main object, so that objects are not always completely visible."""
    options = SETTINGS[place.setting].foreground
    if not options:
        return
    code = options[int(stage.rng.random() * len(options))]
    x = stage.between(0.2, 0.8)
    stage.put(code, stage.between(0.18, 0.26), x=x, bottom=stage.between(0.98, 1.04))


def scene_generator(seed: int, pool: Pool, part: str, index: int) -> np.random.Generator:
    """Return the generator of one scene: no two pools, parts or indices share one."""
    key = stream_key(f"openmoji-scenes/{OPENMOJI_SCENES_VERSION}/{pool}")
    sequence = np.random.SeedSequence((key, seed, stream_key(part), index))
    return np.random.Generator(np.random.PCG64(sequence))


def scene_at(
    index: int, *, seed: int, pool: Pool, part: str, size: int, weights: Mapping[str, float]
) -> Scene:
    """Scene ``index`` of a part, its class drawn by ``weights`` from the scene's own generator."""
    rng = scene_generator(seed, pool, part, index)
    label = _draw(rng, tuple(weights), _cumulative(weights))
    return compose_scene(label, rng, pool=pool, size=size)
