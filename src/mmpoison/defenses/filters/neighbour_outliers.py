"""Pre-training defence: drop pairs that have few others near them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Unpack, get_args

import numpy as np
import numpy.typing as npt
import torch

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.cut import Cut, CutOptions
from mmpoison.defenses.filter_result import PairScores
from mmpoison.defenses.filters.distance_scan import embed_pairs
from mmpoison.defenses.filters.score_filter import ScoreFilter
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset

Space = Literal["pair", "image"]

AT_ONCE = 512

MOST = 1_000_000
"""The farthest neighbour; the data say a nearer one."""


@DEFENSES.register("neighbour-outliers")
class NeighbourOutliers(ScoreFilter):
    """Drop the pairs whose k-th nearest other pair is farthest away.

    Huang et al. find backdoored images by how empty their neighbourhood is among a CLIP's image embeddings; the
    k-distance is one of their detectors. Its scores are of images: it is the same for all captions of an image.
    Where images are ordinary and a caption is wrong, the pair as a whole is what has no neighbours, so by default a
    pair lies where its caption's and its image's embedding, one behind the other, put it.

    Poison in larger groups than `k` are each other's neighbours and are not found.

    Args:
        k: Which neighbour counts, from 1.
        space: `pair`, or `image` for the published score.
        **cut: Where to cut (`mmpoison.defenses.cut.Cut`); 2% of the pairs unless said.

    Raises:
        InputError: If a value is out of range.
    """

    name: ClassVar[str] = "neighbour-outliers"
    kind: ClassVar[Kind] = "pre-training"
    source: ClassVar[str] = "Huang et al., ICLR 2025 (k-distance; on whole pairs: mmpoison)"
    summary: ClassVar[str] = "drops pairs that have few others near them"
    parameters: ClassVar[Mapping[str, str]] = {
        "k": "a larger one sees larger groups of poison, and takes rare clean pairs for outliers",
        "space": "pair: caption and image together; image: the published score, alike for all captions of an image",
    }
    cost: ClassVar[str] = (
        "each image and caption is embedded once, then every pair is compared with every other; rare clean pairs"
    )

    score_name = "distance to the k-th neighbour"
    score_range = (0.0, 2.0)
    default_cut = Cut(clean_loss=0.02)

    def __init__(self, k: int = 16, space: Space = "pair", **cut: Unpack[CutOptions]) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST:
            raise InputError(f"k {k!r:.40} is no number of a neighbour: 1 to {MOST:,} is needed")
        if space not in get_args(Space):
            raise InputError(f"space {space!r:.40} is neither pair nor image")
        super().__init__(**cut)
        self.k = k
        self.space = space

    def score(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> PairScores:
        """Return the distance of each pair to the k-th neighbour, 1 - cosine, in [0, 2]."""
        text, image = embed_pairs(encoder, inputs, pairs, progress)
        if self.space == "image":
            _, first, row = np.unique(pairs.image, return_index=True, return_inverse=True)
            points = image[first]
        else:
            points = (np.concatenate([text, image], axis=1) / np.sqrt(2)).astype(np.float32)
            row = np.arange(len(pairs))
        return PairScores(neighbour_distance(points, self.k, encoder.device, progress)[row])


def neighbour_distance(
    points: npt.NDArray[np.float32],
    k: int,
    device: torch.device | str = "cpu",
    progress: ProgressFor | None = None,
) -> npt.NDArray[np.float64]:
    """Compute the distance of each point to its k-th nearest other, 1 - cosine, in [0, 2].

    Args:
        points: Unit vectors, shape `(N, d)`.
        k: From 1.
        device: Where to compute; memory is that of 512 rows of N numbers.
        progress: Gives a progress callback for a named step; it counts points.

    Returns:
        Shape `(N,)`.

    Raises:
        InputError: If there are not more than `k` points.

    >>> points = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    >>> neighbour_distance(points, 1).tolist(), neighbour_distance(points, 2).tolist()
    ([0.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    """
    if len(points) <= k:
        raise InputError(f"{len(points)} points have no {k}-th neighbour each: choose a smaller k")
    report = progress("comparing pairs") if progress is not None else None
    everything = torch.from_numpy(np.ascontiguousarray(points)).to(device)
    found = []
    for start in range(0, len(points), AT_ONCE):
        likeness = everything[start : start + AT_ONCE] @ everything.T
        rows = torch.arange(len(likeness), device=likeness.device)
        likeness[rows, rows + start] = -torch.inf  # a point is no neighbour of itself
        nearest = likeness.topk(k, dim=1, sorted=False).values.min(dim=1).values
        found.append((1 - nearest).clamp(0, 2).double().cpu().numpy())
        if report is not None:
            report(min(start + AT_ONCE, len(points)), len(points))
    return np.concatenate(found)
