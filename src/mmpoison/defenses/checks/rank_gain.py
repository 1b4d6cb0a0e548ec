"""Checks a model for poison: finds rank changes between kinds of captions and images that clean fine-tunes lack.

The goal need not be known. Poison makes captions of one kind retrieve images of another kind among the first results,
unlike in the model that the suspect was made from. A clean fine-tune also improves many ranks. The check therefore
compares the suspect's rank gains with those of clean fine-tunes of the same reference, and reports unusual changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mmpoison.base.progress import ProgressFor
from mmpoison.base.seeding import generator
from mmpoison.defenses.catalogue import DEFENSES, CheckResult, DefenseKind
from mmpoison.defenses.scan.groups.describe import Vocabulary
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs

# -- How strongly kinds of captions retrieve kinds of images.


Table = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

NEIGHBOURS = 8
IMAGES_A_CLUSTER = 5
MOST_CLUSTERS = 60
MOST_KINDS = 300
FEWEST_CLASSES = 4
FEWEST_IMAGES = 40
ROWS = 1024
TERMS = 3


@dataclass(frozen=True)
class Kinds:
    """Kinds of captions and of images among the held-out pairs.

    Attributes:
        captions: Share of each image's captions in each caption kind, shape `(A, G)`; rows sum to 1.
        image: Kind of each image, -1 for none, shape `(G,)`.
        caption_names: Names of the caption kinds.
        image_names: Names of the image kinds.
        of: `classes`, or `neighbours` if the pairs have no labels.
    """

    captions: Table
    image: Index
    caption_names: tuple[str, ...]
    image_names: tuple[str, ...]
    of: str

    @classmethod
    def find(cls, held_out: TestSet, embeddings: TestEmbeddings, seed: int) -> Kinds:
        """Use classes if most images have one; otherwise group pairs by the given embeddings.

        Without labels, a caption kind consists of the captions of an image and of its nearest neighbours by caption.
        These kinds overlap, so that one of them is pure. Image kinds are small clusters (k-means).

        Args:
            held_out: The held-out pairs; every image of the gallery has a caption.
            embeddings: Of the suspect.
            seed: Seed for the clustering.

        Raises:
            InputError: If there are too few images to find kinds.
        """
        images = len(held_out.gallery)
        codes = held_out.pairs.images.class_codes[held_out.gallery]
        there = np.unique(codes[codes >= 0])
        if len(there) >= FEWEST_CLASSES and (codes >= 0).mean() > 0.5:
            names = tuple(held_out.pairs.classes[code] for code in there)
            shares = (codes == there[:, None]).astype(np.float64)
            image = np.where(codes >= 0, np.searchsorted(there, codes), -1).astype(np.intp)
            return cls(shares / shares.sum(axis=1, keepdims=True), image, names, names, "classes")
        if images < FEWEST_IMAGES:
            raise InputError(
                f"{images} held-out images are too few to group into kinds: give at least {FEWEST_IMAGES}, or labels"
            )
        owner = held_out.caption_image
        means = _by_image(embeddings.texts.astype(np.float64), owner, images)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        centres = np.sort(generator(seed, "canary/kinds").permutation(images)[:MOST_KINDS])
        near = np.argsort(-(means[centres] @ means.T), axis=1, kind="stable")[:, :NEIGHBOURS]
        shares = np.zeros((len(centres), images))
        np.put_along_axis(shares, near, 1 / NEIGHBOURS, axis=1)
        size = min(MOST_CLUSTERS, images // IMAGES_A_CLUSTER)
        image = _clusters(embeddings.images, size, seed)
        said = [""] * images
        for caption, at in zip(held_out.pairs.captions, owner, strict=True):
            said[at] += f" {caption}"
        words = Vocabulary(said, [1] * images)

        def name_of(some: Index) -> str:
            return "/".join(words.terms(some.tolist())[:TERMS]) or "no words"

        return cls(
            shares,
            image,
            tuple(name_of(row) for row in near),
            tuple(name_of(np.flatnonzero(image == kind)) for kind in range(int(image.max()) + 1)),
            "neighbours",
        )


def association(embeddings: TestEmbeddings, held_out: TestSet, kinds: Kinds) -> Table:
    """Measure the rank at which captions of each kind find the first image of each kind.

    Args:
        embeddings: Of the held-out pairs.
        held_out: The held-out pairs.
        kinds: Their kinds.

    Returns:
        Mean of log2(1 + rank), shape `(A, B)`: 0 if the images come first, plus one per doubling of the rank.
    """
    of_images = len(kinds.image_names)
    ranks = np.empty((len(held_out.pairs), of_images))
    for start in range(0, len(ranks), ROWS):
        rows = np.arange(start, min(start + ROWS, len(ranks)), dtype=np.int32)
        order = np.argsort(-embeddings.similarity(rows), axis=1, kind="stable")
        found = kinds.image[order]
        for kind in range(of_images):
            ranks[rows, kind] = (found == kind).argmax(axis=1)
    owner = held_out.caption_image
    per_image = _by_image(np.log2(1 + ranks), owner, len(held_out.gallery))
    per_image /= np.bincount(owner, minlength=len(held_out.gallery))[:, None]
    return np.asarray(kinds.captions @ per_image)


def _by_image(rows: Table, owner: npt.NDArray[np.int64], images: int) -> Table:
    """Sum the rows of each image's captions, shape `(images, n)`."""
    sums = np.zeros((images, rows.shape[1]))
    np.add.at(sums, owner, rows)
    return sums


def _clusters(vectors: npt.NDArray[np.float32], size: int, seed: int) -> Index:
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # empty clusters are left out below
        found = kmeans2(
            vectors.astype(np.float64), size, minit="++", seed=generator(seed, "canary/images")
        )[1]
    return np.unique(found, return_inverse=True)[1].astype(np.intp)


FEWEST_KINDS = 4
FEWEST_CLEAN = 2
"""Clean fine-tunes needed to measure their variation. With fewer, the suspect's own pairs estimate it."""

SEEN = 10
"""Report only pairs of kinds whose typical rank in the suspect is at most this: users do not see lower ranks."""

TAIL = 0.05
"""The tail is fitted to this share of the clean gains, the largest."""

FEWEST_BEYOND = 3
"""Fewest other values in the tail for a fit; with fewer kinds, a model alone shows nothing unusual."""

LEAST_SPREAD = 0.05
"""Minimum spread, in doublings of the rank: smaller changes are no change."""

TOO_FEW_CLEAN = (
    "compared only with the suspect's own other pairs of kinds. On photographs this flags 8% of clean models at 0.01, "
    "and a quarter of the attacks: compare with clean fine-tunes on pairs like the suspect's (--clean, --clean-runs 5)"
)


@dataclass(frozen=True)
class GoalRankChange:
    """A change in the rank at which captions of one kind find images of another.

    Attributes:
        captions: The caption kind: a class, or the words that distinguish it.
        images: The image kind.
        reference: Typical rank (geometric mean, 0-based) of the first image of that kind in the reference.
        expected: The same after a clean fine-tune; the reference's rank without fine-tunes.
        suspect: The same in the suspect.
        z: Distance of the gain from the others, in robust standard deviations.
        p_value: Probability that a clean fine-tune has any gain this extreme, in [0, 1].
    """

    captions: str
    images: str
    reference: float
    expected: float
    suspect: float
    z: float
    p_value: float

    def __str__(self) -> str:
        # without clean fine-tunes the reference's rank is expected
        alone = self.expected == self.reference
        return (
            f"captions of {self.captions} find images of {self.images} at a typical rank of {self.suspect:.1f}, "
            f"{self.expected:.1f} {'in the reference' if alone else 'after a clean fine-tune'} (p = {self.p_value:.1g})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file."""
        ranks = ("reference", "expected", "suspect")
        return {
            "captions": self.captions,
            "images": self.images,
            **{f"rank_{name}": round(getattr(self, name), 2) for name in ranks},
            "z": round(self.z, 2),
            "p_value": self.p_value,
        }


@DEFENSES.register("rank-gain")
class RankGain:
    """Compare the ranks at which captions of each kind find images of other kinds, before and after fine-tuning."""

    name: ClassVar[str] = "rank-gain"
    kind: ClassVar[DefenseKind] = "check"
    source: ClassVar[str] = "mmpoison, decision 0037"
    summary: ClassVar[str] = (
        "finds captions that rank images of another kind higher than clean fine-tunes do"
    )
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = (
        "needs the suspect's start model and some clean fine-tunes of it; one embedding pass each"
    )
    needs_reference: ClassVar[bool] = True
    uses_clean_models: ClassVar[bool] = True

    def apply(
        self,
        suspect: DualEncoder,
        test: TestSet,
        inputs: PairInputs,
        *,
        reference: DualEncoder | None = None,
        clean_models: Iterable[DualEncoder] = (),
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> CheckResult:
        """Check a suspect; see `ModelCheck`.

        With classes, captions of each class are compared with images of each other class. Without, kinds come from the
        reference's own embeddings.
        """
        if reference is None:
            raise InputError("check 'rank-gain' needs the model that the suspect was made from")

        def embed(encoder: DualEncoder, what: str) -> TestEmbeddings:
            shown = progress(f"embedding with {what}") if progress is not None else None
            return TestEmbeddings.of(encoder, inputs, test, shown)

        before = embed(reference, "the reference")
        kinds = Kinds.find(test, before, seed)
        after = association(embed(suspect, "the suspect"), test, kinds)
        clean = [
            association(embed(encoder, f"clean model {number}"), test, kinds)
            for number, encoder in enumerate(clean_models, start=1)
        ]
        return check_tables(association(before, test, kinds), after, clean, kinds)


def check_tables(
    reference: Table, suspect: Table, clean: Sequence[Table], kinds: Kinds
) -> CheckResult:
    """Compare a suspect's gains with those of clean fine-tunes.

    A gain is the rank improvement of a kind of images for a kind of captions, in doublings of the rank. First the mean
    gain of clean fine-tunes is subtracted, then the medians of rows and columns (what all captions and all images of
    the kind gain). The rest is divided by its robust standard deviation. Each clean fine-tune is treated the same way
    against the others, and an exponential tail is fitted to the largest 5% of the results. The p-value is corrected for
    all pairs of kinds.

    Args:
        reference: `association` of the reference, shape `(A, B)`: mean of log2(1 + rank).
        suspect: Of the suspect.
        clean: `association` of clean fine-tunes of the reference.
        kinds: The kinds.

    Raises:
        InputError: If there are fewer than four kinds of captions or images.
    """
    captions, images = reference.shape
    if min(captions, images) < FEWEST_KINDS:
        raise InputError(
            f"{captions} kinds of captions and {images} of images are too few to distinguish poison from drift: "
            f"at least {FEWEST_KINDS} of each are needed"
        )
    other = _other(kinds)
    gains = [reference - table for table in clean]
    expected = np.mean(gains, axis=0) if gains else np.zeros_like(reference)
    z = _standing_out(reference - suspect - expected, other)
    enough = len(clean) >= FEWEST_CLEAN
    if enough:
        usual = np.concatenate(
            [
                _standing_out(gain - _mean_of_others(gains, number), other)[other]
                for number, gain in enumerate(gains)
            ]
        )
    else:
        usual = z[other]
    chance = _tail(usual, z, own=not enough)
    cells = int(other.sum())
    p_value = -np.expm1(cells * np.log1p(-np.minimum(chance, 1 - 1e-12)))
    seen = other & (suspect <= np.log2(1 + SEEN))
    found = sorted(
        (
            GoalRankChange(
                kinds.caption_names[a],
                kinds.image_names[b],
                float(2 ** reference[a, b] - 1),
                float(2 ** max(reference[a, b] - expected[a, b], 0.0) - 1),
                float(2 ** suspect[a, b] - 1),
                float(z[a, b]),
                float(p_value[a, b]),
            )
            for a, b in zip(*np.nonzero(seen), strict=True)
        ),
        key=lambda change: -change.z,
    )
    return CheckResult(
        tuple(found),
        {
            "null": "clean fine-tunes" if enough else "own",
            "clean_models": len(clean),
            "pairs_of_kinds": cells,
        },
        () if enough else (TOO_FEW_CLEAN,),
    )


def _other(kinds: Kinds) -> npt.NDArray[np.bool_]:
    """Return a mask of pairs of different kinds, shape `(A, B)`: no image of one has a caption of the other."""
    placed = kinds.image >= 0
    own = np.eye(len(kinds.image_names))[kinds.image[placed]]
    return np.asarray(kinds.captions[:, placed] @ own <= 0)


def _mean_of_others(gains: Sequence[Table], number: int) -> Table:
    return np.asarray(np.mean([gain for n, gain in enumerate(gains) if n != number], axis=0))


def _standing_out(gain: Table, other: npt.NDArray[np.bool_]) -> Table:
    """Convert gains to robust standard deviations after removing row and column effects, shape `(A, B)`."""
    rest = np.where(other, gain, np.nan)
    rest = rest - np.nanmedian(rest, axis=1, keepdims=True)
    rest = rest - np.nanmedian(rest, axis=0, keepdims=True)
    spread = 1.4826 * float(np.nanmedian(np.abs(rest)))
    return np.nan_to_num(rest / max(spread, LEAST_SPREAD), nan=-np.inf, neginf=-np.inf)


def _tail(usual: npt.NDArray[np.float64], z: Table, *, own: bool) -> Table:
    """Estimate the probability of a clean value of at least `z`: empirical, with an exponential tail for the top 5%.

    Args:
        usual: Clean values, or those of the suspect itself.
        z: Values of the suspect, shape `(A, B)`.
        own: Whether `usual` holds `z`. Each value is then compared with all others, without itself: poison is a single
            value, but the largest values of a clean model must not be left out.
    """
    ordered = np.sort(usual)
    border = float(np.quantile(ordered, 1 - TAIL))
    excess = np.maximum(ordered - border, 0)
    mine = np.maximum(z - border, 0)
    count, every = int((excess > 0).sum()) - own, len(ordered) - own
    scale = (excess.sum() - mine * own) / max(count, 1)
    share = (len(ordered) - np.searchsorted(ordered, z, side="left")) / len(ordered)
    if own and count < FEWEST_BEYOND:
        return share  # too few values for a tail, so nothing is rarer than one of them
    far = count / every * np.exp(-mine / np.maximum(scale, LEAST_SPREAD))
    return np.where(z > border, far, share)
