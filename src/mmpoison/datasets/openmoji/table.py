"""Which OpenMoji sprites stand for which PASCAL VOC class, and what people call them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Pool = Literal["pretraining", "demo"]
Pose = Literal["ground", "air", "bust", "face"]

# The OpenMoji palette: every SVG is drawn with these fills, so repainting is a swap of hex codes.
RED, DARK_RED, ORANGE, DARK_ORANGE = "#ea5a47", "#d22f27", "#f4aa41", "#e27022"
YELLOW, AMBER, LIME, GREEN = "#fcea2b", "#f1b31c", "#b1cc33", "#5c9e31"
SKY, BLUE, NAVY, PINK = "#92d3f5", "#61b2e4", "#1e50a0", "#ffa7c0"
PURPLE, LILAC, BROWN, DARK_BROWN = "#8967aa", "#b399c8", "#a57939", "#6a462f"
WHITE, SILVER, GREY, BLACK = "#fff", "#d0cfce", "#9b9b9a", "#3f3f3f"
CREAM, CHARCOAL, STEEL, FOREST = "#f6e9c9", "#55504d", "#6f8296", "#186648"

PAINTS: Mapping[str, str] = {
    "red": RED, "orange": DARK_ORANGE, "yellow": YELLOW, "green": GREEN, "blue": BLUE,
    "purple": PURPLE, "pink": PINK, "brown": BROWN, "white": WHITE, "grey": GREY, "black": BLACK,
}  # fmt: skip


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
        variant: suffix that tells recoloured drawings of one code apart.
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


def _painted(
    base: Sprite, fills: Mapping[str, str], colours: Iterable[str], *, original: str | None = None
) -> tuple[Sprite, ...]:
    """``base`` as drawn (if ``original`` names its colour) and repainted.

    ``fills`` maps each hex code of the body to "main" or "shade".
    """
    out = []
    if original is not None:
        out.append(_with(base, base.variant, original, {}))
    for colour in colours:
        tint = PAINTS[colour]
        swap = {old: tint if role == "main" else _darker(tint) for old, role in fills.items()}
        variant = f"{base.variant}-{colour}" if base.variant else colour
        out.append(_with(base, variant, colour, swap))
    return tuple(out)


def _with(base: Sprite, variant: str, colour: str | None, swap: Mapping[str, str]) -> Sprite:
    return Sprite(
        base.code, base.nouns, variant, colour, base.acts, base.pose, {**base.swap, **swap},
        base.drop, base.keep, base.view, base.layers, base.extra,
    )  # fmt: skip


def _darker(hex_code: str, factor: float = 0.78) -> str:
    digits = hex_code.lstrip("#")
    digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
    channels = (int(int(digits[i : i + 2], 16) * factor) for i in (0, 2, 4))
    return "#" + "".join(f"{c:02x}" for c in channels)


def _aeroplanes() -> tuple[Sprite, ...]:
    nouns = ("aeroplane", "airplane", "plane", "jet", "airliner")
    jet = {SILVER: "main", GREY: "shade"}
    biplane = Sprite("1F6E9", ("plane", "propeller plane", "aeroplane", "airplane"), pose="air")
    return (
        *_painted(
            Sprite("2708", nouns, pose="air"),
            jet,
            ("white", "blue", "red", "yellow"),
            original="grey",
        ),
        *_painted(Sprite("1F6EB", nouns, pose="air"), jet, ("white", "blue"), original="grey"),
        *_painted(Sprite("1F6EC", nouns, pose="air"), jet, ("white", "red"), original="grey"),
        *_painted(
            biplane, {DARK_ORANGE: "main"}, ("red", "yellow", "green", "blue"), original="orange"
        ),
    )


def _bicycles() -> tuple[Sprite, ...]:
    bike = Sprite("1F6B2", ("bicycle", "bike", "push bike"))
    nouns = ("cyclist on a bicycle", "person on a bike", "cyclist on a bike")
    rides = ("riding along", "riding fast", "cycling")
    return (
        *_painted(
            bike,
            {RED: "main"},
            ("blue", "green", "black", "purple", "orange", "yellow"),
            original="red",
        ),
        *(Sprite(_toned("1F6B4", tone), nouns, acts=rides) for tone in _TONES),
    )


def _birds() -> tuple[Sprite, ...]:
    flies = ("flying", "soaring", "gliding")
    perches = ("perching", "sitting", "resting")
    return (
        Sprite("1F426", ("bird", "sparrow"), colour="brown"),
        Sprite("1F426-200D-2B1B", ("bird", "crow"), colour="black"),
        *_painted(
            Sprite("1F426", ("bird", "sparrow")), {BROWN: "main", DARK_BROWN: "shade"},
            ("blue", "red", "yellow"),
        ),
        Sprite("1F54A", ("dove", "bird", "pigeon"), colour="white", pose="air", acts=flies),
        Sprite("E009", ("pigeon", "bird", "dove"), colour="grey", pose="air", acts=flies),
        Sprite("1F985", ("eagle", "bird", "bird of prey"), colour="brown", pose="air", acts=flies),
        Sprite("1F986", ("duck", "bird"), acts=("standing", "walking", "resting")),
        Sprite("1F989", ("owl", "bird"), acts=perches),
        Sprite("1F99C", ("parrot", "bird"), colour="red", acts=perches),
        Sprite("E010", ("parrot", "bird"), colour="blue", acts=perches),
        Sprite("1F9A2", ("swan", "bird"), colour="white"),
        Sprite("1FABF", ("goose", "bird"), colour="white"),
        Sprite("1F9A9", ("flamingo", "bird"), colour="pink"),
        Sprite("1F99A", ("peacock", "bird")),
        Sprite("1F413", ("rooster", "bird", "cockerel"), colour="brown"),
        Sprite("1F425", ("chick", "bird"), colour="yellow"),
        Sprite("1F427", ("penguin", "bird"), colour="black"),
        Sprite("1F983", ("turkey", "bird"), colour="brown"),
    )  # fmt: skip


def _boats() -> tuple[Sprite, ...]:
    # The drawings carry their own block of water; the view ends at the waterline.
    sail = Sprite(
        "26F5", ("sailboat", "boat", "sailing boat"), acts=("sailing", "drifting"),
        view=(0, 0, 72, 47.2), drop=("m64.4414,44.7846", "m8.1621,44.7846"),
    )  # fmt: skip
    speed = Sprite(
        "1F6A4", ("speedboat", "boat", "motorboat"), acts=("speeding", "cruising"),
        view=(0, 0, 72, 49.2), drop=("M68,47v22", "M5,47c3"),
    )  # fmt: skip
    cruiser = Sprite(
        "1F6E5", ("motorboat", "boat", "speedboat"), acts=("cruising", "drifting"),
        view=(0, 0, 72, 49), drop=("m68,47.0208", "m5.0417,47.0208"),
    )  # fmt: skip
    liner = Sprite(
        "1F6F3", ("ship", "boat", "passenger ship"), acts=("cruising", "sailing"),
        view=(0, 0, 72, 58), drop=("m68,47v21", "m47.4115,49.3367", "m5,47c3"),
    )  # fmt: skip
    rowing = Sprite(
        "1F6A3", ("rowing boat", "boat", "person in a boat"), acts=("gliding", "drifting"),
        view=(0, 0, 72, 49.5), drop=("M67.958,46.958", "M5,47c3"),
    )  # fmt: skip
    canoe = Sprite("1F6F6", ("canoe", "boat"), acts=("floating", "drifting"))
    return (
        *_painted(sail, {SILVER: "main"}, ("white", "red", "blue", "yellow"), original="grey"),
        *_painted(speed, {WHITE: "main", "#ffffff": "main"}, ("yellow", "red"), original="white"),
        *_painted(cruiser, {SILVER: "main"}, ("white", "green"), original="grey"),
        *_painted(liner, {BLACK: "main"}, ("blue", "green"), original="black"),
        rowing,
        *_painted(canoe, {BLUE: "main", SKY: "main"}, ("red", "green", "yellow"), original="blue"),
    )


def _bottles() -> tuple[Sprite, ...]:
    glass = Sprite("E0CB", ("bottle", "glass bottle", "water bottle"))
    plastic = Sprite("E0CC", ("bottle", "water bottle", "plastic bottle"))
    wine = Sprite("1F37E", ("bottle", "wine bottle", "bottle of champagne"))
    milk = Sprite("1F37C", ("bottle", "baby bottle", "milk bottle"))
    soap = Sprite("1F9F4", ("bottle", "soap bottle", "lotion bottle"))
    water = {SKY: "main", BLUE: "shade"}
    return (
        *_painted(glass, water, ("green", "brown", "orange"), original="blue"),
        *_painted(plastic, water, ("green", "pink", "yellow"), original="blue"),
        *_painted(wine, {LIME: "main", GREEN: "shade"}, ("brown", "purple"), original="green"),
        *_painted(milk, water, ("pink", "green"), original="blue"),
        *_painted(soap, water, ("white", "yellow", "green"), original="blue"),
        Sprite("E0B1", ("spray bottle", "bottle")),
    )


def _buses() -> tuple[Sprite, ...]:
    nouns = ("bus", "coach")
    return (
        *_painted(
            Sprite("1F68C", nouns), {RED: "main"}, ("blue", "green", "yellow", "white"),
            original="red",
        ),
        *_painted(
            Sprite("1F68D", ("bus", "school bus", "city bus")), {ORANGE: "main", YELLOW: "main"},
            ("red", "blue", "green"), original="yellow",
        ),
        *_painted(
            Sprite("1F68E", ("bus", "city bus", "trolleybus")), {BLUE: "main"}, ("red", "green"),
            original="blue",
        ),
        *_painted(
            Sprite("1F690", ("minibus", "bus")), {SILVER: "main"}, ("yellow", "blue"),
            original="grey",
        ),
    )  # fmt: skip


def _cars() -> tuple[Sprite, ...]:
    body = {RED: "main"}
    return (
        *_painted(
            Sprite("1F697", ("car", "hatchback", "family car")), body,
            ("blue", "green", "white", "black", "purple", "orange"), original="red",
        ),
        *_painted(
            Sprite("1F698", ("car", "automobile")), body, ("blue", "green", "white", "black"),
            original="red",
        ),
        Sprite("1F695", ("taxi", "cab", "taxi car"), colour="yellow"),
        Sprite("1F696", ("taxi", "cab", "taxi car"), colour="orange"),
        Sprite("1F693", ("police car", "car"), colour="grey"),
        Sprite("1F694", ("police car", "car"), colour="grey"),
        *_painted(
            Sprite("1F699", ("jeep", "car", "off-road car")), {SKY: "main"},
            ("green", "red", "yellow"), original="blue",
        ),
        *_painted(
            Sprite("1F6FB", ("pickup truck", "car", "pickup")), {DARK_RED: "main"},
            ("blue", "green", "white"), original="red",
        ),
        *_painted(
            Sprite("1F3CE", ("race car", "racing car", "sports car")),
            {RED: "main", DARK_RED: "shade"}, ("blue", "yellow"), original="red",
        ),
    )  # fmt: skip


def _cats() -> tuple[Sprite, ...]:
    nouns = ("cat", "kitten", "kitty")
    coats: tuple[tuple[str, dict[str, str]], ...] = (
        ("grey", {ORANGE: GREY, DARK_ORANGE: "#77706c"}),
        ("white", {ORANGE: "#f7f2ea", DARK_ORANGE: SILVER}),
        ("brown", {ORANGE: BROWN, DARK_ORANGE: DARK_BROWN}),
    )
    out = [
        Sprite("1F408", nouns, colour="orange"),
        Sprite("1F408-200D-2B1B", nouns, colour="black"),
        Sprite("1F431", nouns, colour="orange", pose="face"),
        Sprite("1F638", nouns, colour="orange", pose="face", acts=("smiling", "grinning")),
        Sprite("1F63A", nouns, colour="orange", pose="face", acts=("smiling", "looking happy")),
    ]
    for colour, swap in coats:
        out += [
            Sprite("1F408", nouns, colour, colour, swap=swap),
            Sprite("1F431", nouns, colour, colour, pose="face", swap=swap),
        ]
    return tuple(out)


def _chairs() -> tuple[Sprite, ...]:
    return (
        *_painted(
            Sprite("1FA91", ("chair", "wooden chair", "kitchen chair")),
            {YELLOW: "main", AMBER: "shade"},
            ("red", "blue", "green", "brown", "white", "black", "pink", "purple", "orange"),
            original="yellow",
        ),
        *_painted(
            Sprite("1F4BA", ("chair", "seat", "padded chair")), {SKY: "main", BLUE: "shade"},
            ("red", "green", "black", "yellow", "brown"), original="blue",
        ),
    )  # fmt: skip


def _cows() -> tuple[Sprite, ...]:
    black = {BROWN: CHARCOAL, DARK_BROWN: "#2c2a29"}
    return (
        Sprite("1F404", ("cow", "dairy cow"), colour="brown"),
        Sprite("1F404", ("cow", "dairy cow"), "black", "black", swap=black),
        Sprite("1F404", ("cow", "dairy cow"), "ginger", swap={BROWN: DARK_ORANGE}),
        Sprite("1F42E", ("cow", "dairy cow"), colour="brown", pose="face"),
        Sprite("1F42E", ("cow", "calf"), "black", "black", pose="face", swap=black),
        Sprite("1F402", ("cow", "bull"), colour="brown"),
        Sprite("1F402", ("cow", "bull"), "black", "black", swap=black),
        Sprite("1F403", ("bull", "buffalo cow"), colour="black"),
        Sprite("1F403", ("bull", "buffalo cow"), "brown", "brown", swap={BLACK: DARK_BROWN}),
    )


def _dogs() -> tuple[Sprite, ...]:
    nouns = ("dog", "puppy", "hound")
    coats: tuple[tuple[str, dict[str, str]], ...] = (
        ("brown", {ORANGE: BROWN, DARK_ORANGE: DARK_BROWN}),
        ("black", {ORANGE: CHARCOAL, DARK_ORANGE: BLACK}),
        ("white", {ORANGE: "#f7f2ea", DARK_ORANGE: SILVER}),
        ("grey", {ORANGE: GREY, DARK_ORANGE: "#77706c"}),
    )
    out = [
        Sprite("1F415", nouns, colour="orange"),
        Sprite("1F436", nouns, colour="orange", pose="face"),
        Sprite("1F429", ("poodle", "dog"), colour="grey"),
        Sprite("1F429", ("poodle", "dog"), "white", "white", swap={SILVER: "#f7f2ea"}),
        Sprite(
            "1F429", ("poodle", "dog"), "brown", "brown", swap={SILVER: BROWN, GREY: DARK_BROWN}
        ),
        Sprite("1F429", ("poodle", "dog"), "black", "black", swap={SILVER: CHARCOAL, GREY: BLACK}),
        Sprite("1F9AE", ("guide dog", "dog"), colour="brown"),
        Sprite("1F415-200D-1F9BA", ("guide dog", "dog")),
    ]
    for colour, swap in coats:
        out += [
            Sprite("1F415", nouns, colour, colour, swap=swap),
            Sprite("1F436", nouns, colour, colour, pose="face", swap=swap),
        ]
    return tuple(out)


_WATCHES = ("looking around", "watching")


def _horses() -> tuple[Sprite, ...]:
    coats: tuple[tuple[str, dict[str, str]], ...] = (
        ("white", {BROWN: "#f7f2ea", DARK_BROWN: SILVER}),
        ("black", {BROWN: CHARCOAL, DARK_BROWN: "#2c2a29"}),
        ("grey", {BROWN: "#b5b2ae", DARK_BROWN: "#77706c"}),
    )
    nouns = ("horse", "pony", "mare")
    out = [
        Sprite("1F40E", nouns, colour="brown"),
        Sprite("1F434", ("horse", "stallion"), colour="brown", pose="bust", acts=_WATCHES),
    ]
    for colour, swap in coats:
        out += [
            Sprite("1F40E", nouns, colour, colour, swap=swap),
            Sprite("1F434", ("horse", "stallion"), colour, colour, _WATCHES, "bust", swap),
        ]
    for code, names in (
        ("1F3C7", ("jockey on a horse", "rider on a horse")),
        ("E184", ("rider on a horse", "person on a horse")),
    ):
        acts = ("running", "galloping", "trotting")
        out.append(Sprite(code, names, acts=acts))
        out += [Sprite(code, names, colour, acts=acts, swap=swap) for colour, swap in coats[:2]]
    return tuple(out)


def _motorbikes() -> tuple[Sprite, ...]:
    return (
        *_painted(
            Sprite("1F3CD", ("motorbike", "motorcycle", "racing motorbike")),
            {RED: "main", DARK_RED: "shade"},
            ("blue", "green", "yellow", "black", "purple", "orange"), original="red",
        ),
        *_painted(
            Sprite("1F6F5", ("scooter", "motor scooter", "moped")), {RED: "main"},
            ("blue", "green", "yellow", "white", "pink"), original="red",
        ),
    )  # fmt: skip


_TONES = ("", "1F3FB", "1F3FD", "1F3FE")


def _toned(code: str, tone: str) -> str:
    """The file stem of ``code`` in a skin tone: the tone follows the first code point."""
    if not tone:
        return code
    first, _, rest = code.partition("-")
    return "-".join(part for part in (first, tone, rest) if part)


_WOMAN, _MAN = "-200D-2640-FE0F", "-200D-2642-FE0F"

# code, nouns, acts, pose
_PEOPLE: tuple[tuple[str, tuple[str, ...], tuple[str, ...], Pose], ...] = (
    ("1F6B6" + _MAN, ("man", "person", "pedestrian"), ("walking", "strolling"), "ground"),
    ("1F6B6" + _WOMAN, ("woman", "person", "lady"), ("walking", "strolling"), "ground"),
    ("1F3C3" + _MAN, ("man", "runner", "person"), ("running", "jogging"), "ground"),
    ("1F3C3" + _WOMAN, ("woman", "runner", "person"), ("running", "jogging"), "ground"),
    ("1F9CD" + _MAN, ("man", "person"), ("standing", "waiting"), "ground"),
    ("1F9CD" + _WOMAN, ("woman", "person"), ("standing", "waiting"), "ground"),
    ("1F483", ("woman", "dancer", "person"), ("dancing",), "ground"),
    ("1F57A", ("man", "dancer", "person"), ("dancing",), "ground"),
    ("1F938", ("person", "gymnast"), ("doing a cartwheel", "tumbling"), "ground"),
    ("1F939", ("person", "juggler"), ("juggling", "playing"), "ground"),
    ("26F9", ("person", "player"), ("playing with a ball", "playing"), "ground"),
    ("1F93E", ("person", "player"), ("throwing a ball", "playing"), "ground"),
    ("1F3CC", ("person", "golfer", "player"), ("playing golf", "playing"), "ground"),
    ("1F9D8", ("person", "woman"), ("sitting", "doing yoga"), "ground"),
    ("1F3CB", ("person", "weight lifter"), ("lifting weights", "training"), "ground"),
    ("1F468", ("man", "person", "guy"), ("smiling", "posing"), "bust"),
    ("1F469", ("woman", "person", "lady"), ("smiling", "posing"), "bust"),
    ("1F466", ("boy", "child", "kid"), ("smiling", "posing"), "bust"),
    ("1F467", ("girl", "child", "kid"), ("smiling", "posing"), "bust"),
    ("1F474", ("old man", "man", "person"), ("smiling", "posing"), "bust"),
    ("1F475", ("old woman", "woman", "person"), ("smiling", "posing"), "bust"),
    ("1F9D4", ("man", "bearded man", "person"), ("smiling", "posing"), "bust"),
    ("1F468-200D-1F33E", ("farmer", "man", "person"), ("working", "smiling"), "bust"),
    ("1F469-200D-1F33E", ("farmer", "woman", "person"), ("working", "smiling"), "bust"),
    ("1F468-200D-1F373", ("cook", "man", "person"), ("cooking", "working"), "bust"),
    ("1F469-200D-1F373", ("cook", "woman", "person"), ("cooking", "working"), "bust"),
    ("1F46E", ("police officer", "person"), ("standing", "waiting"), "bust"),
    ("1F477", ("worker", "person", "builder"), ("working", "smiling"), "bust"),
)


def _people() -> tuple[Sprite, ...]:
    return tuple(
        Sprite(_toned(code, tone), nouns, acts=acts, pose=pose)
        for code, nouns, acts, pose in _PEOPLE
        for tone in _TONES
    )


def _potted_plants() -> tuple[Sprite, ...]:
    # The pot of 1FAB4 alone, with other plants standing in it.
    pot = (ORANGE, RED, 'x="23.1806"', 'points="26.678')
    nouns = ("potted plant", "plant in a pot", "houseplant")
    leafy = Sprite("1FAB4", nouns)
    plants = (
        ("1F337", "tulip", ("tulip in a pot", "potted flower")),
        ("1F33B", "sunflower", ("sunflower in a pot", "potted flower")),
        ("1F335", "cactus", ("cactus in a pot", "potted cactus")),
        ("1F339", "rose", ("rose in a pot", "potted flower")),
        ("1F33F", "herb", ("potted plant", "herb in a pot")),
        ("1F33C", "blossom", ("flower in a pot", "potted flower")),
    )
    out = list(
        _painted(leafy, {RED: "main", ORANGE: "shade"}, ("blue", "white", "green", "purple"))
    )
    out.append(leafy)
    for code, name, names in plants:
        layer = Layer(code, 13, -6, 46, under=True)
        base = Sprite("1FAB4", (*names, "potted plant"), name, keep=pot, layers=(layer,))
        out.append(base)
        out += [
            _plain(s) for s in _painted(base, {RED: "main", ORANGE: "shade"}, ("blue", "white"))
        ]
    return tuple(_plain(s) for s in out)


def _plain(sprite: Sprite) -> Sprite:
    """The same drawing without a colour word: the paint is the pot's, not the plant's."""
    return _with(sprite, sprite.variant, None, {})


def _sheep() -> tuple[Sprite, ...]:
    ewe, ram, goat = ("sheep", "ewe", "lamb"), ("ram", "sheep"), ("goat", "sheep")
    return (
        Sprite("1F411", ewe, colour="white"),
        Sprite("1F411", ewe, "cream", swap={WHITE: CREAM, SILVER: "#d9c49a"}),
        Sprite("1F411", ewe, "black", "black", swap={WHITE: CHARCOAL, SILVER: BLACK}),
        Sprite("1F40F", ram, colour="white"),
        Sprite("1F40F", ram, "cream", swap={WHITE: CREAM, SILVER: "#d9c49a"}),
        Sprite("1F40F", ram, "black", "black", swap={WHITE: CHARCOAL, SILVER: BLACK}),
        Sprite("1F410", goat, colour="brown"),
        Sprite("1F410", goat, "white", "white", swap={BROWN: "#f7f2ea", DARK_BROWN: SILVER}),
        Sprite("1F410", goat, "grey", "grey", swap={BROWN: GREY, DARK_BROWN: CHARCOAL}),
    )


def _sofas() -> tuple[Sprite, ...]:
    cloth = {SKY: "main", BLUE: "shade"}
    couch = Sprite("1F6CB", ("sofa", "couch", "settee"), "couch",
                   drop=("M34.46 9.549", "m34.46 9.549", "m34.53 9.549", "m47.09 13.7",
                         "m58.92 59.61"))  # fmt: skip
    lamp = Sprite("1F6CB", ("sofa with a lamp", "couch with a lamp", "sofa"))
    chair = Sprite("E141", ("sofa", "couch", "settee"))
    return (
        *_painted(
            couch, cloth, ("red", "green", "brown", "grey", "purple", "orange", "white"),
            original="blue",
        ),
        *_painted(lamp, cloth, ("red", "green", "brown", "purple"), original="blue"),
        *_painted(
            chair, {BLUE: "main"}, ("red", "green", "brown", "yellow", "pink"), original="blue"
        ),
    )  # fmt: skip


def _tables() -> tuple[Sprite, ...]:
    # E084 is a table with somebody under it: the person goes, the leg's outline is closed again.
    outline = '<path fill="none" stroke="#000" stroke-width="2" d="M56.68 40V49M60.97 40V52"/>'
    bare = ("64.166 18.937", "11.158 23.222", "64.166 23.222", "60.9686", "56.684 48.706")
    woods: tuple[tuple[str, dict[str, str]], ...] = (
        ("brown", {}), ("white", {BROWN: "#f3ede2"}), ("dark", {BROWN: DARK_BROWN}),
    )  # fmt: skip
    meals = (
        ("cake", ("1F382",), "cake"),
        ("wine", ("1F377", "1F957"), "food"),
        ("tea", ("1FAD6", "2615"), "tea"),
        ("soup", ("1F372",), "food"),
        ("pie", ("1F967", "2615"), "food"),
    )
    nouns = ("dining table", "table", "wooden table")
    chairs = ("dining table with chairs", "table with two chairs", "dining table")
    out = []
    for wood, swap in woods:
        colour = None if wood == "dark" else wood
        out.append(Sprite("E200", chairs, wood, colour, swap=swap))
        out.append(Sprite("E084", nouns, wood, colour, swap=swap, keep=bare, extra=outline))
        for meal, codes, word in meals:
            side = 19 if len(codes) > 1 else 24
            # Drawings leave about a tenth of their side free below: it hangs over the edge.
            layers = tuple(
                Layer(code, 36 + (i - (len(codes) - 1) / 2) * 22 - side / 2, 21.5 - side, side)
                for i, code in enumerate(codes)
            )
            names = (f"table with {word}", "dining table", f"dining table with {word}")
            out.append(
                Sprite("E084", names, f"{wood}-{meal}", swap=swap, keep=bare, layers=layers,
                       extra=outline)
            )  # fmt: skip
    return tuple(out)


def _trains() -> tuple[Sprite, ...]:
    fast = ("train", "express train", "fast train")
    return (
        *_painted(
            Sprite("1F682", ("steam train", "train", "locomotive")), {RED: "main"},
            ("green", "blue"), original="red",
        ),
        *_painted(
            Sprite("1F683", ("train", "railway carriage", "tram")), {RED: "main"},
            ("blue", "green", "yellow"), original="red",
        ),
        *_painted(Sprite("1F684", fast), {WHITE: "main"}, ("yellow", "blue"), original="white"),
        *_painted(Sprite("1F685", fast), {SILVER: "main"}, ("white", "blue"), original="grey"),
        *_painted(Sprite("1F686", ("train", "commuter train")), {SILVER: "main"}, ("red", "blue"),
                  original="grey"),
        *_painted(Sprite("1F688", ("train", "commuter train")), {SILVER: "main"},
                  ("white", "yellow"), original="grey"),
        *_painted(Sprite("1F68A", ("tram", "tram train")), {BLUE: "main", SKY: "main"},
                  ("red", "green"), original="blue"),
        Sprite("1F69D", ("monorail train", "train"), colour="grey"),
    )  # fmt: skip


def _monitors() -> tuple[Sprite, ...]:
    tv, pc = ("television", "tv", "tv set", "monitor"), ("monitor", "computer monitor", "screen")
    screens = ("blue", "green", "red", "purple", "orange", "white")
    out = [
        Sprite("1F4FA", tv, colour="black"),
        Sprite("1F5A5", pc, colour="white"),
    ]
    for colour in screens:
        paint = PAINTS[colour]
        out.append(Sprite("1F4FA", tv, colour, swap={BLACK: paint, "#ffffff": SILVER}))
        out.append(Sprite("1F5A5", pc, colour, swap={GREY: _darker(paint), SILVER: paint}))
    for code, name in (("26BD", "ball"), ("1F33B", "flower"), ("2600", "sun")):
        out.append(
            Sprite("1F4FA", tv, f"show-{name}", swap={BLACK: SKY, "#ffffff": SKY},
                   layers=(Layer(code, 23, 18, 26),))
        )  # fmt: skip
    return tuple(out)


SPRITES: Mapping[str, tuple[Sprite, ...]] = {
    "aeroplane": _aeroplanes(),
    "bicycle": _bicycles(),
    "bird": _birds(),
    "boat": _boats(),
    "bottle": _bottles(),
    "bus": _buses(),
    "car": _cars(),
    "cat": _cats(),
    "chair": _chairs(),
    "cow": _cows(),
    "diningtable": _tables(),
    "dog": _dogs(),
    "horse": _horses(),
    "motorbike": _motorbikes(),
    "person": _people(),
    "pottedplant": _potted_plants(),
    "sheep": _sheep(),
    "sofa": _sofas(),
    "train": _trains(),
    "tvmonitor": _monitors(),
}

CLASSES: tuple[str, ...] = tuple(sorted(SPRITES))

# By code (all its variants), or by name where a class has one or two codes only.
HELD_OUT: frozenset[str] = frozenset({
    "1F6EC", "E010", "1F426-200D-2B1B", "1F6E5", "E0CB", "1F68E", "1F698", "1F694",
    "1F408-200D-2B1B", "1F402", "1F415-200D-1F9BA", "E184", "1F686",
    *(_toned(c, t) for c in ("1F57A", "1F469-200D-1F33E", "1F3C3" + _WOMAN) for t in _TONES),
    "1FAB4:sunflower", "1FAB4:sunflower-blue", "1FAB4:sunflower-white",
    "E084:brown-pie", "E084:white-pie", "E084:dark-pie",
})  # fmt: skip
"""Sprites (codes, or names of variants) that only the pool "demo" shows."""

PRETRAINING_ONLY: frozenset[str] = frozenset({
    "1F427", "1F983", "1F3CE", "1F6F6", "1F63A", "1F69D",
    *(_toned(c, t) for c in ("1F46E", "1F3CB") for t in _TONES),
})  # fmt: skip
"""Sprites that only the pool "pretraining" shows."""


def sprites_of(label: str, pool: Pool) -> tuple[Sprite, ...]:
    """The sprites of a class that a pool may show."""
    other = PRETRAINING_ONLY if pool == "demo" else HELD_OUT
    return tuple(s for s in SPRITES[label] if s.code not in other and s.name not in other)
