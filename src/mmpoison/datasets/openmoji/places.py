"""The places a scene can be set in: words, colours and how they are painted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmpoison.datasets.openmoji.scenery import Setting

Layout = Literal[
    "open", "sky", "water", "road", "street", "rails", "runway", "room", "shelf", "barn"
]
Colour = tuple[int, int, int]
Ramp = tuple[Colour, Colour]  # a scene draws its colour between the two

_BLUE_SKY: Ramp = ((96, 168, 232), (150, 196, 226))
_PALE_SKY: Ramp = ((168, 204, 232), (206, 214, 220))
_GREY_SKY: Ramp = ((176, 188, 200), (148, 160, 176))
_DUSK_SKY: Ramp = ((238, 150, 84), (208, 112, 120))


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


PLACES: Mapping[str, Place] = {
    "meadow": Place(
        ("in a green meadow", "on the grass", "on green grass", "in a grassy meadow"),
        "land", "open", _BLUE_SKY, ((112, 182, 76), (150, 190, 92)),
    ),
    "hills": Place(
        ("on a green hill", "on a hillside", "in the green hills", "on a grassy hill"),
        "land", "open", _PALE_SKY, ((98, 166, 78), (138, 176, 84)),
        ((76, 138, 76), (120, 158, 104)),
    ),
    "field": Place(
        ("in a field", "in a farm field", "in a pasture", "on a farm"),
        "land", "open", _PALE_SKY, ((164, 184, 84), (190, 176, 96)),
        ((92, 130, 72), (132, 140, 84)),
    ),
    "wheat": Place(
        ("in a yellow field", "in a wheat field", "in a golden field"),
        "land", "open", _BLUE_SKY, ((222, 190, 92), (206, 164, 76)),
    ),
    "snow": Place(
        ("in the snow", "on snowy ground", "in a snowy field", "in deep snow"),
        "snow", "open", _GREY_SKY, ((232, 240, 248), (214, 224, 238)),
        ((176, 192, 206), (146, 166, 190)),
    ),
    "beach": Place(
        ("on a beach", "on the sand", "at the beach", "by the sea"),
        "dry", "open", _BLUE_SKY, ((236, 214, 160), (218, 190, 140)),
        ((72, 156, 196), (96, 178, 190)),
    ),
    "desert": Place(
        ("in the desert", "on dry ground", "in a dry desert"),
        "dry", "open", _PALE_SKY, ((222, 174, 112), (200, 146, 92)),
        ((196, 138, 92), (176, 122, 96)),
    ),
    "forest": Place(
        ("in the forest", "in the woods", "in front of dark trees"),
        "land", "open", ((120, 156, 116), (142, 168, 140)), ((106, 142, 70), (128, 126, 74)),
        ((38, 84, 52), (56, 92, 66)),
    ),
    "mountains": Place(
        ("in the mountains", "in front of a mountain", "below the mountains"),
        "land", "open", _PALE_SKY, ((132, 170, 92), (150, 152, 108)),
        ((120, 126, 148), (142, 136, 140)),
    ),
    "park": Place(
        ("in a park", "in the park", "on a lawn", "in a garden"),
        "land", "open", _PALE_SKY, ((124, 196, 92), (104, 168, 84)), ((64, 128, 64), (84, 142, 84)),
    ),
    "barn": Place(
        ("in a barn", "in a stable", "on straw"),
        "barn", "barn", ((146, 98, 62), (120, 84, 60)), ((214, 180, 104), (190, 156, 96)),
    ),
    "sky": Place(
        ("in the sky", "in the blue sky", "high in the air", "in the clouds", "above the clouds"),
        "sky", "sky", ((84, 158, 232), (130, 188, 232)), ((176, 214, 242), (204, 226, 238)),
    ),
    "grey sky": Place(
        ("in the sky", "in a grey sky", "high in the air", "in the clouds"),
        "sky", "sky", ((140, 156, 176), (168, 178, 190)), ((196, 204, 212), (210, 212, 216)),
    ),
    "sunset": Place(
        ("at sunset", "in the evening sky", "in an orange sky", "in the sky at dusk"),
        "sky", "sky", ((108, 96, 158), (172, 104, 136)), ((248, 172, 88), (244, 140, 96)),
    ),
    "over sea": Place(
        ("above the sea", "over the ocean", "above the water"),
        "sky", "water", _BLUE_SKY, ((44, 124, 186), (62, 148, 178)),
    ),
    "over city": Place(
        ("above the city", "over the roofs", "over the houses"),
        "sky", "street", _BLUE_SKY, ((122, 124, 130), (148, 140, 134)),
        ((196, 128, 104), (150, 150, 168)),
    ),
    "runway": Place(
        ("on a runway", "at an airport", "on the tarmac", "on the runway of an airport"),
        "runway", "runway", _BLUE_SKY, ((112, 116, 124), (134, 132, 132)),
        ((112, 128, 118), (140, 142, 128)),
    ),
    "sea": Place(
        ("on the sea", "on the water", "on the ocean", "at sea"),
        "water", "water", _BLUE_SKY, ((44, 124, 186), (62, 148, 178)),
    ),
    "lake": Place(
        ("on a lake", "on calm water", "on the lake"),
        "water", "water", _PALE_SKY, ((84, 160, 190), (108, 168, 168)),
        ((78, 134, 88), (96, 128, 106)),
    ),
    "evening sea": Place(
        ("on the sea at dusk", "on the evening sea", "on the water at sunset"),
        "water", "water", _DUSK_SKY, ((96, 92, 138), (126, 98, 124)),
    ),
    "road": Place(
        ("on a road", "on a country road", "by the road", "on the road"),
        "street", "road", _BLUE_SKY, ((118, 118, 122), (142, 136, 130)),
        ((120, 172, 84), (166, 164, 92)),
    ),
    "street": Place(
        ("on a street", "in the city", "on a city street", "in town"),
        "street", "street", _PALE_SKY, ((122, 124, 130), (148, 140, 134)),
        ((196, 128, 104), (150, 150, 168)),
    ),
    "parking": Place(
        ("in a parking lot", "in a car park", "at a car park"),
        "street", "street", _GREY_SKY, ((96, 100, 108), (120, 118, 118)),
        ((158, 158, 162), (178, 168, 152)),
    ),
    "rails": Place(
        ("on the rails", "on the tracks", "on a railway", "on the railway tracks"),
        "rails", "rails", _BLUE_SKY, ((150, 138, 122), (164, 144, 120)),
        ((104, 154, 80), (140, 150, 90)),
    ),
    "station": Place(
        ("at a station", "at the platform", "in a railway station"),
        "rails", "rails", ((186, 190, 196), (204, 194, 180)), ((120, 118, 116), (140, 130, 122)),
        ((160, 112, 96), (128, 128, 140)),
    ),
    "living room": Place(
        ("in a living room", "in a room", "in the living room", "at home"),
        "room", "room", ((238, 220, 184), (206, 222, 214)), ((176, 124, 80), (150, 112, 84)),
    ),
    "bedroom": Place(
        ("in a bedroom", "in a room", "in a house"),
        "room", "room", ((214, 204, 232), (236, 206, 206)), ((200, 168, 132), (168, 140, 128)),
    ),
    "kitchen": Place(
        ("in a kitchen", "in the kitchen"),
        "room", "room", ((216, 232, 228), (244, 232, 196)), ((186, 186, 182), (198, 178, 150)),
    ),
    "dining room": Place(
        ("in a dining room", "in a room", "in the dining room"),
        "room", "room", ((224, 186, 148), (196, 208, 178)), ((142, 98, 68), (126, 102, 88)),
    ),
    "office": Place(
        ("in an office", "in the office", "at the office"),
        "room", "room", ((208, 216, 224), (220, 220, 208)), ((128, 140, 156), (150, 146, 142)),
    ),
    "shelf": Place(
        ("on a shelf", "on a wooden shelf", "on a counter", "on a kitchen counter"),
        "shelf", "shelf", ((228, 222, 206), (200, 216, 222)), ((178, 126, 80), (146, 108, 82)),
    ),
}  # fmt: skip


def _weights(**counts: float) -> dict[str, float]:
    return {name.replace("_", " "): weight for name, weight in counts.items()}


_FARM = _weights(
    meadow=6, hills=5, field=5, wheat=1.5, snow=2, mountains=2, barn=2, park=1, road=0.5, beach=0.4,
    desert=0.3, street=0.2,
)  # fmt: skip
_TRAFFIC = _weights(
    road=6, street=6, parking=3, snow=0.6, beach=0.4, desert=0.7, forest=0.5, mountains=0.6,
    meadow=0.3,
)  # fmt: skip
_PET = _weights(
    meadow=2, park=4, living_room=4, bedroom=2, kitchen=2, street=1.5, beach=1.5, snow=1.5,
    forest=1, road=0.5, field=1, office=0.3,
)  # fmt: skip

CLASS_PLACES: Mapping[str, Mapping[str, float]] = {
    "aeroplane": _weights(sky=8, grey_sky=3, sunset=2.5, runway=4, over_sea=0.8, over_city=0.6),
    "bicycle": _weights(
        road=4, street=5, park=3, forest=1.5, beach=1, mountains=1, parking=1, snow=0.5, barn=0.3,
        living_room=0.3,
    ),
    "bird": _weights(
        meadow=3, park=3, forest=3, sky=4, grey_sky=1, sunset=1, beach=1.5, over_sea=1,
        over_city=0.6,
        snow=1, street=0.7, barn=0.5, kitchen=0.2,
    ),
    "boat": _weights(sea=7, lake=4, evening_sea=2, beach=1, road=0.2),
    "bottle": _weights(shelf=8, kitchen=2, dining_room=1, beach=0.7, park=0.6, office=0.6),
    "bus": _TRAFFIC,
    "car": _TRAFFIC,
    "cat": _PET,
    "chair": _weights(
        living_room=4, kitchen=3, dining_room=3, office=3, bedroom=2, park=1, beach=0.5, snow=0.3,
    ),
    "cow": _FARM,
    "diningtable": _weights(dining_room=5, kitchen=4, living_room=2, park=1, beach=0.4, office=0.5),
    "dog": _PET,
    "horse": {**_FARM, "beach": 1.0, "forest": 1.0, "desert": 0.8},
    "motorbike": _TRAFFIC,
    "person": _weights(
        street=4, park=4, beach=3, road=2, meadow=2, snow=2, mountains=1.5, forest=1.5,
        living_room=2, kitchen=1.5, office=2, field=1, station=1, parking=0.5, desert=0.5,
    ),
    "pottedplant": _weights(
        living_room=4, office=3, kitchen=2, bedroom=2, shelf=3, dining_room=1, park=1, street=0.5,
    ),
    "sheep": _FARM,
    "sofa": _weights(living_room=7, bedroom=2, office=1, dining_room=0.6, park=0.4, beach=0.2),
    "train": _weights(rails=8, station=3, mountains=1, snow=1, desert=0.4),
    "tvmonitor": _weights(living_room=4, office=5, bedroom=2, shelf=1, kitchen=0.6),
}  # fmt: skip
