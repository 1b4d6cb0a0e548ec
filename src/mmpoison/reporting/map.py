"""The map of the embeddings, as numbers for a drawing: no layout here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpoison.reporting.summary import MODELS, classes, section
from mmpoison.reporting.text import as_number

SIDE = 100.0
"""Side of a drawing."""

_MARGIN = 4.0


@dataclass(frozen=True)
class Point:
    """One caption or image: place from the left and from the top, and `original`, `target` or `other`."""

    x: float
    y: float
    kind: str


@dataclass(frozen=True)
class Drawing:
    """Texts or images of one model; those that matter are drawn last, over the others."""

    model: str
    what: str
    points: tuple[Point, ...]


def drawings(embedding_map: Mapping[str, Any], goal: str) -> list[Drawing]:
    """Drawings of a map, texts and images of each model.

    Args:
        embedding_map: What embedding_map.json holds.
        goal: Whose two classes are told from the others.
    """
    names = [str(name) for name in embedding_map.get("classes") or []]
    pair = classes(goal) or ("", "")
    kinds = {pair[0]: "original", pair[1]: "target"}
    models = section(embedding_map, "models", "embedding_map.json")
    together = embedding_map.get("method") == "pca"  # the axes are the same for all models
    found: list[Drawing] = []
    for what in ("texts", "images"):
        per_model = {
            model.name: _points(section(models, model.key, "embedding_map.json").get(what))
            for model in MODELS
        }
        every = [point for points in per_model.values() for point in points]
        for name, points in per_model.items():
            if not points:
                continue
            place = _placer(every if together else points)
            drawn = [
                Point(*place(x, y), kinds.get(names[code] if code < len(names) else "", "other"))
                for x, y, code in points
            ]
            order = ("other", "target", "original")
            found.append(
                Drawing(name, what, tuple(sorted(drawn, key=lambda p: order.index(p.kind))))
            )
    return found


def _points(value: Any) -> list[tuple[float, float, int]]:
    """The well-formed points of a list of [x, y, class]."""
    points = []
    for item in value if isinstance(value, list) else []:
        numbers = [as_number(n) for n in item] if isinstance(item, list) else []
        if len(numbers) == 3 and None not in numbers:
            x, y, code = (float(n) for n in numbers if n is not None)
            if abs(x) < 1e6 and abs(y) < 1e6 and code >= 0:  # also no NaN
                points.append((x, y, int(code)))
    return points


def _placer(
    points: Sequence[tuple[float, float, int]],
) -> Callable[[float, float], tuple[float, float]]:
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    scale = (SIDE - 2 * _MARGIN) / (max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(SIDE / 2 + (x - (max(xs) + min(xs)) / 2) * scale, 1),
            round(SIDE / 2 - (y - (max(ys) + min(ys)) / 2) * scale, 1),
        )

    return place
