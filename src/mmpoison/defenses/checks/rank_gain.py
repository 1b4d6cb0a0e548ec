"""Checks a model for poison: finds rank changes between kinds of captions and images that clean fine-tunes do not have.

The goal need not be known. Poison makes captions of one kind retrieve images of another kind among the first results,
which they did not in the model that the suspect was made from. A clean fine-tune also improves the ranks of many pairs
of kinds. So the rank gains of the suspect are compared with those of clean fine-tunes of the same reference, and
unusual rank changes are reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.check_result import CheckResult
from mmpoison.defenses.checks.kinds import Kinds, Table, association
from mmpoison.errors import InputError
from mmpoison.evaluation.test_set import TestEmbeddings, TestSet
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor

FEWEST_KINDS = 4
FEWEST_CLEAN = 2
"""Clean fine-tunes that say how far one of them strays from the others; with fewer the suspect's own pairs say it."""

SEEN = 10
"""Only pairs of kinds with a typical rank of at most this in the suspect are reported: nobody sees the others."""

TAIL = 0.05
"""Share of the usual gains, the largest, that the tail is fitted to."""

TRIMMED = 0.01
"""Share of the suspect's own pairs of kinds, those that stand out, that do not take part in its own null."""

LEAST_SPREAD = 0.05
"""In doublings of the rank: below that nothing has moved."""

TOO_FEW_CLEAN = (
    "compared with the suspect's own other pairs of kinds: two or more clean fine-tunes (--clean, --clean-runs) "
    "tell more if their pairs are like the suspect's"
)


@dataclass(frozen=True)
class GoalRankChange:
    """A change of the rank at which captions of one kind find images of another.

    Attributes:
        captions: The kind of caption, a class or the words that set it apart.
        images: The kind of image.
        reference: Typical rank (geometric mean, 0-based) of the first such image in the reference.
        expected: The same after a clean fine-tune; as in the reference where there is none.
        suspect: The same in the suspect.
        z: How far the gain stands out from the others, in robust standard deviations.
        p_value: Chance that a clean fine-tune has any gain that stands out as far, in [0, 1].
    """

    captions: str
    images: str
    reference: float
    expected: float
    suspect: float
    z: float
    p_value: float

    def __str__(self) -> str:
        return (
            f"captions of {self.captions} find images of {self.images} at a typical rank of {self.suspect:.1f}, "
            f"{self.expected:.1f} in a clean model (p = {self.p_value:.1g})"
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
    """Compare how far down captions of each kind find images of each other kind, before and after."""

    name: ClassVar[str] = "rank-gain"
    kind: ClassVar[Kind] = "check"
    source: ClassVar[str] = "mmpoison, decision 0037"
    summary: ClassVar[str] = (
        "reports captions that find images of another kind earlier than in clean fine-tunes"
    )
    parameters: ClassVar[Mapping[str, str]] = {}
    cost: ClassVar[str] = (
        "the model that the suspect was made from, and some clean fine-tunes of it; one embedding pass each"
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

        With classes, captions of each class are compared with images of each other class; without, kinds that the
        reference's own embeddings put together.
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
    """Compare the gains of a suspect with those of clean fine-tunes.

    A gain is how many doublings of the rank captions of a kind have come nearer to images of a kind. What clean
    fine-tunes gain on average is taken off, then what all captions of the kind and all images of the kind gain (medians
    of rows and columns); the rest is divided by its own robust standard deviation. The same is done to each clean
    fine-tune, against the others, and an exponential tail is fitted to the largest twentieth of what that gives. The
    p-value is corrected for all pairs of kinds.

    Args:
        reference: `association` of the reference, shape `(A, B)`: mean of log2(1 + rank).
        suspect: Of the suspect.
        clean: Of clean fine-tunes of the reference.
        kinds: The kinds.

    Raises:
        InputError: If there are fewer than four kinds of captions or images.
    """
    captions, images = reference.shape
    if min(captions, images) < FEWEST_KINDS:
        raise InputError(
            f"{captions} kinds of captions and {images} of images are too few to distinguish poison from drift: "
            f"{FEWEST_KINDS} of each are needed"
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
        own = np.sort(z[other])
        usual = own[: len(own) - max(1, round(TRIMMED * len(own)))]
    chance = _tail(usual, z)
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
    """Mark pairs of different kinds: no image of one has a caption of the other, shape `(A, B)`."""
    placed = kinds.image >= 0
    own = np.eye(len(kinds.image_names))[kinds.image[placed]]
    return np.asarray(kinds.captions[:, placed] @ own <= 0)


def _mean_of_others(gains: Sequence[Table], number: int) -> Table:
    return np.asarray(np.mean([gain for n, gain in enumerate(gains) if n != number], axis=0))


def _standing_out(gain: Table, other: npt.NDArray[np.bool_]) -> Table:
    """Convert gains to robust standard deviations, without row and column effects, shape `(A, B)`."""
    rest = np.where(other, gain, np.nan)
    rest = rest - np.nanmedian(rest, axis=1, keepdims=True)
    rest = rest - np.nanmedian(rest, axis=0, keepdims=True)
    spread = 1.4826 * float(np.nanmedian(np.abs(rest)))
    return np.nan_to_num(rest / max(spread, LEAST_SPREAD), nan=-np.inf, neginf=-np.inf)


def _tail(usual: npt.NDArray[np.float64], z: Table) -> Table:
    """Estimate the chance of a clean value of at least `z`: their share; an exponential tail beyond the top 5%."""
    ordered = np.sort(usual)
    border = float(np.quantile(ordered, 1 - TAIL))
    beyond = ordered[ordered > border]
    scale = float(np.mean(beyond - border)) if len(beyond) else LEAST_SPREAD
    share = (len(ordered) - np.searchsorted(ordered, z, side="left")) / len(ordered)
    far = len(beyond) / len(ordered) * np.exp(-np.maximum(z - border, 0) / max(scale, 1e-9))
    return np.where(z > border, far, share)
