"""Draws what a filter found: densities of scores, ROC and precision-recall, and a page of the most suspicious pairs."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmpoison.base.files import atomic_file
from mmpoison.errors import InputError
from mmpoison.reporting import text as _text
from mmpoison.reporting.figure import canvas, mark_threshold, pictures_inside, save, template

Values = npt.NDArray[np.floating[Any]]
Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

BINS = 200


def write_distance_figure(
    target: Path,
    distances: Values,
    threshold: float,
    *,
    poisoned: npt.NDArray[np.bool_] | None = None,
    mismatched: Values | None = None,
    score_name: str = "cosine distance of image and caption",
) -> Path:
    """Draw densities of scores with the threshold (figure 6 of the paper), in the format of the file's ending.

    Curves differ in line and hatching, so that the figure can be read without colour.

    Args:
        target: The file.
        distances: Of all judged pairs, shape `(N,)`.
        threshold: Where it was cut.
        poisoned: Which pairs the manifest calls poisoned, shape `(N,)`; drawn apart.
        mismatched: Distances of captions to random images, shape `(M,)`.
        score_name: What the distances are.

    Raises:
        InputError: If the extra `figures` is missing.
    """
    figure = distance_figure(
        distances, threshold, poisoned=poisoned, mismatched=mismatched, score_name=score_name
    )
    return save(figure, target)


def distance_figure(
    distances: Values,
    threshold: float,
    *,
    poisoned: npt.NDArray[np.bool_] | None = None,
    mismatched: Values | None = None,
    score_name: str = "cosine distance of image and caption",
) -> Any:
    """Draw densities of scores with the threshold; arguments as for `write_distance_figure`.

    Returns:
        A figure of matplotlib.

    Raises:
        InputError: If the extra `figures` is missing.
    """
    figure, axes = canvas(1)
    axis = axes[0]
    known = poisoned is not None and poisoned.any() and not poisoned.all()
    assert poisoned is not None or not known
    lines: list[tuple[str, Values, dict[str, Any]]] = (
        [
            ("clean pairs", distances[~poisoned], {"color": "0.25", "linestyle": "-"}),
            ("poisoned pairs", distances[poisoned], {"color": "0.0", "linestyle": "--"}),
        ]
        if known and poisoned is not None
        else [("pairs", distances, {"color": "0.25", "linestyle": "-"})]
    )
    if mismatched is not None and len(mismatched):
        lines.append(
            ("captions with random images", mismatched, {"color": "0.55", "linestyle": ":"})
        )
    span = (
        float(min(v.min() for _, v, _ in lines)),
        float(max(max(v.max() for _, v, _ in lines), threshold)),
    )
    for number, (name, values, style) in enumerate(lines):
        x, y = density(values, span)
        axis.plot(x, y, label=f"{name} ({len(values):,})", linewidth=1.6, **style)
        if number == 1 and known:
            axis.fill_between(x, y, facecolor="none", edgecolor="0.4", hatch="///", linewidth=0)
    mark_threshold(axis, threshold)
    axis.set(xlabel=score_name, ylabel="density", ylim=(0, None))
    axis.legend(frameon=False, loc="upper left" if threshold > np.mean(span) else "upper right")
    return figure


def write_curve_figure(
    target: Path, distances: Values, poisoned: npt.NDArray[np.bool_], threshold: float
) -> Path:
    """Draw ROC and precision-recall of the distance as a sign of poison, with the threshold marked.

    Args:
        target: The file.
        distances: Of all judged pairs, shape `(N,)`.
        poisoned: Which are poisoned, shape `(N,)`; some must be and some must not.
        threshold: Where it was cut.

    Raises:
        InputError: If the extra `figures` is missing, or the pairs are all of one kind.
    """
    if poisoned.all() or not poisoned.any():
        raise InputError("a curve needs poisoned and clean pairs")
    figure, axes = canvas(2)
    (lost, caught), (recall, precision) = (
        roc(distances, poisoned),
        precision_recall(distances, poisoned),
    )
    gone = distances > threshold
    at = (gone[~poisoned].mean(), gone[poisoned].mean())
    axes[0].plot(lost, caught, color="0.15")
    axes[0].plot([0, 1], [0, 1], color="0.6", linestyle=":")
    axes[0].plot(*at, "o", color="0.0", markerfacecolor="1.0")
    axes[0].set(xlabel="share of clean pairs dropped", ylabel="share of poison dropped")
    axes[1].plot(recall, precision, color="0.15")
    if gone.any():
        axes[1].plot(at[1], poisoned[gone].mean(), "o", color="0.0", markerfacecolor="1.0")
    axes[1].set(
        xlabel="share of poison dropped (recall)", ylabel="poison among the dropped (precision)"
    )
    for axis in axes:
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return save(figure, target)


def write_filter_page(
    target: Path,
    *,
    facts: Mapping[str, Any],
    cut: Mapping[str, Any],
    score_name: str = "cosine distance of image and caption",
    pairs: Sequence[Mapping[str, Any]],
    figures: Sequence[tuple[str, Path]] = (),
) -> Path:
    """Write one self-contained page: what was dropped, why, and the most suspicious pairs as pictures.

    Args:
        target: The file.
        facts: Counts, as `FilterResult.facts` gives them, with the data's name as `data`.
        cut: The threshold, as `Threshold.facts` gives it.
        score_name: What is called `distance` of a pair.
        pairs: `pair`, `caption`, `distance`, `poisoned` (or None), `keep` and `thumbnail` (a `data:` address) of each.
        figures: Caption and PNG file of each figure.
    """
    page = template("filter").render(
        facts=_text.clean(dict(facts)),
        cut=_text.clean(dict(cut)),
        score_name=score_name,
        pairs=[
            {
                **_text.clean(dict(pair)),
                "source": pictures_inside({"own": pair.get("thumbnail")}).get("own"),
            }
            for pair in pairs
        ],
        figures=[
            (name, "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode())
            for name, file in figures
        ],
    )
    with atomic_file(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def density(values: Values, span: tuple[float, float]) -> Curve:
    """Compute a smoothed histogram over a span; its integral is the share of values in the span.

    Smoothing is by a Gaussian kernel of Silverman's width over a fine histogram, which takes the same time for a
    thousand and for a million values.
    """
    from scipy.ndimage import gaussian_filter1d

    low, high = span
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, bins=BINS, range=(low, high))
    step = (high - low) / BINS
    quarter = np.subtract(*np.percentile(values, [75, 25])) / 1.34
    spread = min(float(np.std(values)), float(quarter)) or float(np.std(values)) or step
    width = 0.9 * spread * len(values) ** -0.2
    heights = gaussian_filter1d(
        counts / (len(values) * step), max(width / step, 0.5), mode="reflect"
    )
    return (edges[1:] + edges[:-1]) / 2, np.asarray(heights)


def roc(distances: Values, poisoned: npt.NDArray[np.bool_]) -> Curve:
    """Compute the shares of clean and of poisoned pairs above each threshold, from the largest down."""
    hits, alarms = _counts(distances, poisoned)
    return alarms / max(alarms[-1], 1), hits / max(hits[-1], 1)


def precision_recall(distances: Values, poisoned: npt.NDArray[np.bool_]) -> Curve:
    """Compute recall and precision of the pairs above each threshold that drops any, from the largest down."""
    hits, alarms = (counts[1:] for counts in _counts(distances, poisoned))
    return hits / max(hits[-1], 1), hits / (hits + alarms)


def _counts(distances: Values, poisoned: npt.NDArray[np.bool_]) -> Curve:
    order = np.argsort(-distances, kind="stable")
    ends = np.flatnonzero(np.diff(distances[order], append=-np.inf) != 0)
    hits, alarms = np.cumsum(poisoned[order])[ends], np.cumsum(~poisoned[order])[ends]
    return (
        np.concatenate([[0], hits]).astype(np.float64),
        np.concatenate([[0], alarms]).astype(np.float64),
    )
