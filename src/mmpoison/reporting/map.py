"""Turns the map of the embeddings into numbers for a drawing; no layout here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmpoison.records.run_files import EmbeddingMap
from mmpoison.reporting.summary import MODELS, classes

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


def drawings(embedding_map: EmbeddingMap | Mapping[str, object], goal: str) -> list[Drawing]:
    """Arrange a map as drawings, texts and images of each model.

    Args:
        embedding_map: What embedding_map.json holds.
        goal: Its two classes are marked.

    Raises:
        InputError: If it is not that.
    """
    shown = EmbeddingMap.of(embedding_map, "embedding_map.json")
    pair = classes(goal) or ("", "")
    kinds = {pair[0]: "original", pair[1]: "target"}
    found: list[Drawing] = []
    for what in ("texts", "images"):
        per_model = {
            model.name: _points(getattr(shown.models.get(model.key), what, ())) for model in MODELS
        }
        every = [point for points in per_model.values() for point in points]
        for name, points in per_model.items():
            if not points:
                continue
            # the axes of PCA are the same for all models
            place = _placer(every if shown.method == "pca" else points)
            drawn = [
                Point(*place(x, y), kinds.get(_class_name(shown, code), "other"))
                for x, y, code in points
            ]
            order = ("other", "target", "original")
            found.append(
                Drawing(name, what, tuple(sorted(drawn, key=lambda p: order.index(p.kind))))
            )
    return found


def _class_name(shown: EmbeddingMap, code: int) -> str:
    return shown.classes[code] if code < len(shown.classes) else ""


def _points(points: Iterable[Sequence[float]]) -> list[tuple[float, float, int]]:
    """Keep the points that can be drawn: far outliers would hide all others."""
    return [
        (float(x), float(y), int(code))
        for x, y, code in points
        if abs(x) < 1e6 and abs(y) < 1e6 and code >= 0
    ]


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
