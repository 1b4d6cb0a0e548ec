"""Pre-training defence: drops pairs in sparse neighbourhoods of the embeddings."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from mmpoison.base import ProgressFor, find_device, generator, options, silent
from mmpoison.defenses import (
    DEFENSES,
    Cut,
    DefenseKind,
    PairScores,
    ReadPairs,
    ScoreFilter,
)
from mmpoison.errors import InputError

Modality = Literal["pair", "image", "caption"]
Score = Literal["k-dist", "slof", "dao"]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

COSINES_AT_ONCE = 1 << 25
"""Cosines computed at a time: 128 MiB, whatever the number of points."""

MOST = 1_000_000
"""Largest k and reference sample; the data limit them further."""

UNIT = 1e-3
"""Vectors whose length differs from one by less than this are not normalised."""

SMALLEST = 1e-6
"""Smallest distance in ratios and logarithms; smaller ones are float32 rounding errors."""


@DEFENSES.register("local-density")
@options
class LocalDensity(ScoreFilter):
    """Drop pairs whose neighbours are far away, absolutely or compared with the neighbours of their neighbours.

    Huang et al. find backdoored images by how sparse the neighbourhood of their embedding is. With d(x) the cosine
    distance of a point x to its k-th nearest other point, and o one of its k nearest others, the scores are

    - `k-dist`: d(x);
    - `slof` (simplified local outlier factor): the mean over o of d(x) / d(o);
    - `dao` (dimensionality-aware outlier detection): the mean over o of LID(o) log(d(x) / d(o)), where LID(o) is the
      maximum-likelihood estimate of the local intrinsic dimension from the k distances of o.

    A point is not its own neighbour, neither for d(x) nor for d(o). Identical vectors are neighbours at distance zero,
    so a pair posted more than k times is an inlier for every score.

    Huang et al. score images, because an image with a trigger is odd. If images are ordinary and captions are wrong, it
    is the pair that has no neighbours, so by default a point is the caption's embedding followed by the image's. Poison
    in groups larger than `k` is its own neighbourhood and is not found.
    """

    name: ClassVar[str] = "local-density"
    kind: ClassVar[DefenseKind] = "pre-training"
    source: ClassVar[str] = "Huang et al., ICLR 2025 (of images; of whole pairs: mmpoison)"
    summary: ClassVar[str] = "drops pairs with few near neighbours among the embeddings"
    cost: ClassVar[str] = (
        "one embedding pass, then compares every pair with every other; drops rare clean pairs"
    )

    score_name = "sparsity of the neighbourhood"
    default_cut = Cut(clean_loss=0.02)

    k: Annotated[
        int,
        Field(
            ge=1,
            le=MOST,
            description="number of neighbours; a larger one detects larger groups of poison, but also drops "
            "rare clean pairs",
        ),
    ] = 16
    modality: Annotated[
        Modality,
        Field(
            description="pair: caption and image together; image: as published, blind to wrong captions; "
            "caption: captions alone"
        ),
    ] = "pair"
    measure: Score = Field(
        default="k-dist",
        alias="score",
        description="k-dist: sparse; slof: sparser than its neighbours; dao: the same, by local dimension",
    )
    reference: Annotated[
        int | None,
        Field(
            ge=1,
            le=MOST,
            description="number of pairs sampled as neighbours (default: all); a smaller sample is faster, "
            "but drops more rare clean pairs",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.measure == "dao" and self.k == 1:
            raise InputError(
                "k 1 is too small for dao, which estimates a dimension: give 2 or more"
            )
        super().__post_init__()

    def score(self, read: ReadPairs) -> PairScores:
        """Return the sparsity of each pair's neighbourhood, with all pairs in memory.

        Raises:
            InputError: If there are too few points for `k`.
        """
        pairs = read.vectors()
        scores = np.full(len(pairs), np.nan)
        sides = [np.asarray(side, dtype=np.float32) for side in (pairs.text, pairs.image)]
        lengths = [np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
        both = lengths[0] * lengths[1]
        rows = np.flatnonzero(np.isfinite(both) & (both > 0))
        # do not round vectors of unit length again
        by = (np.where(np.abs(of - 1) < UNIT, 1, of)[rows].astype(np.float32) for of in lengths)
        text, image = (side[rows] / length for side, length in zip(sides, by, strict=True))
        pair_of: Any = slice(None)
        points: npt.NDArray[np.float32]
        if self.modality == "image":
            _, first, pair_of = np.unique(pairs.owner[rows], return_index=True, return_inverse=True)
            points = image[first]
        elif self.modality == "caption":
            points = text
        else:
            points = (np.concatenate([text, image], axis=1) / np.sqrt(2)).astype(np.float32)
        reference = None
        if self.reference is not None and self.reference < len(points):
            drawn = generator(read.seed, "local-density").permutation(len(points))
            reference = np.sort(drawn[: self.reference])
        near = nearest_others(
            points, self.k, reference, device=find_device("auto"), progress=read.progress
        )
        scores[rows] = sparsity(*near, self.measure, points.shape[1])[pair_of]
        return PairScores.split(scores, read)


def nearest_others(
    points: npt.NDArray[np.float32],
    k: int,
    reference: Rows | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: ProgressFor = silent,
) -> tuple[Floats, Rows]:
    """Find the exact k nearest other points of each point by cosine.

    Args:
        points: Unit vectors, shape `(N, d)`.
        k: From 1.
        reference: Sorted rows of points that may be neighbours; all by default.
        device: Device of the computation.
        progress: Returns a progress callback, which counts points, for a named step.

    Returns:
        Distances (1 - cosine, in [0, 2]), nearest first, and rows of the neighbours; both `(N, k)`.

    Raises:
        InputError: If at most `k` points may be neighbours.

    >>> points = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    >>> distance, row = nearest_others(points, 1)
    >>> distance[:, 0].tolist(), row[:2, 0].tolist()
    ([0.0, 0.0, 1.0], [1, 0])
    """
    known = np.arange(len(points)) if reference is None else reference
    if len(known) <= k:
        raise InputError(f"{len(known)} points have fewer than {k} neighbours: give a smaller k")
    report = progress("comparing pairs")
    everything = torch.from_numpy(np.ascontiguousarray(points)).to(device)
    others = everything if reference is None else everything[torch.from_numpy(known).to(device)]
    place = np.full(len(points), -1)
    place[known] = np.arange(len(known))
    at_once = max(1, COSINES_AT_ONCE // len(known))
    found = []
    for start in range(0, len(points), at_once):
        likeness = everything[start : start + at_once] @ others.T
        own = torch.from_numpy(place[start : start + at_once]).to(device)
        inside = torch.nonzero(own >= 0).flatten()
        likeness[inside, own[inside]] = -torch.inf  # a point is not its own neighbour
        found.append(likeness.topk(k, dim=1))
        report(min(start + at_once, len(points)), len(points))
    cosine, column = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return (1 - cosine.astype(np.float64)).clip(0, 2), known[column]


def sparsity(distance: Floats, row: Rows, score: Score, dimensions: int) -> Floats:
    """Compute a sparsity score, as defined in `LocalDensity`, from each point's nearest others.

    Args:
        distance: Distances to the k nearest others, nearest first, shape `(N, k)`.
        row: Rows of these, shape `(N, k)`.
        score: Which score.
        dimensions: Dimension of the vectors, the upper limit of local dimensions.

    Returns:
        Shape `(N,)`.

    >>> near = np.array([[1.0], [1.0], [3.0]]), np.array([[1], [0], [0]])
    >>> sparsity(*near, "slof", 2).tolist()
    [1.0, 1.0, 3.0]
    """
    farthest = distance[:, -1]
    if score == "k-dist":
        return farthest
    distance = np.maximum(distance, SMALLEST)
    farthest = distance[:, -1]
    ratio = farthest[:, None] / farthest[row]
    if score == "slof":
        return np.asarray(ratio.mean(axis=1))
    # Levina and Bickel: LID = k / sum(log(d_k / d_i)), infinite if all k distances are equal
    k = distance.shape[1]
    lid = k / np.maximum(np.log(farthest[:, None] / distance).sum(axis=1), k / dimensions)
    return np.asarray((lid[row] * np.log(ratio)).mean(axis=1))
