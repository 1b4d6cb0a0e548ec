"""The base class of filters: the keywords of the cut, and `apply` for pairs with prepared inputs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Unpack

from mmpoison.base.option_checks import check_number
from mmpoison.defenses.catalogue import PairFilter
from mmpoison.defenses.cut import Cut, CutOptions
from mmpoison.defenses.filter_result import FilterResult
from mmpoison.defenses.filters.decide import decide, needs_trusted
from mmpoison.defenses.filters.judge_test import check_judge, judge_auroc
from mmpoison.defenses.filters.mismatched import mismatched_distances
from mmpoison.errors import InputError
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor
from mmpoison.pairs.table import PairDataset


class ScoreFilter(PairFilter):
    """Takes the keywords of the cut, and makes verdicts of the scores that a subclass gives by `score`.

    Args:
        **cut: Where to cut, as `mmpoison.defenses.cut.Cut` explains; the method's own default without any.

    Raises:
        InputError: If the method cannot cut so, or a value is out of range.
    """

    needs_aligned_judge: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    uses_trusted: ClassVar[bool] = False
    finds_groups: ClassVar[bool] = False
    score_name: ClassVar[str] = "score"
    score_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    default_cut: ClassVar[Cut | None] = None

    def __init__(self, **cut: Unpack[CutOptions]) -> None:
        # without a default an empty cut says what is missing
        self.cut = Cut.of(cut) or self.default_cut or Cut()
        if self.cut.false_alarms is not None and not self.finds_groups:
            raise InputError(
                f"{self.name} finds no groups, which false_alarms (--false-alarms) needs: "
                "it takes threshold, clean_loss, labels or automatic"
            )
        if self.cut.threshold is not None:
            low, high = self.score_range
            within = f"between {low:g} and {high:g}" if math.isfinite(high) else "finite"
            check_number(
                "threshold", self.cut.threshold, f"a {self.score_name} {within}", low, high
            )

    def apply(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        trusted: PairDataset | None = None,
        force: bool = False,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> FilterResult:
        """Judge all of some pairs by inputs that are prepared; `filter_pairs` does it for the training pairs of a set.

        Args:
            pairs: The pairs to judge.
            encoder: The judge.
            inputs: Prepared inputs for the judge, holding all pairs and the trusted ones.
            trusted: Pairs known to be clean, which `clean_loss` is measured on.
            force: Whether a judge that cannot distinguish true from shuffled pairs is used all the same.
            seed: Seed of everything random.
            progress: Gives a progress callback for a named step.

        Raises:
            InputError: If there is no pair, or nothing would be left, or the cut is by labels, which name pairs of a
                whole set.
            ResultError: If the judge cannot distinguish true from shuffled pairs, which the method needs.
        """
        if self.cut.labels is not None:
            raise InputError(
                "labels name pairs of a whole set: mmpoison.defenses.filter_pairs cuts by them"
            )
        if not len(pairs):
            raise InputError("there is no pair to filter")
        scored = self.score(pairs, encoder, inputs, seed=seed, progress=progress)
        tested = (
            judge_auroc(*scored.embeddings)
            if self.needs_aligned_judge and scored.embeddings
            else None
        )
        if not force:
            check_judge(tested, self, encoder.name)
        known = None
        if needs_trusted(self) and trusted is not None and len(trusted):
            known = self.score(trusted, encoder, inputs, seed=seed, progress=progress)
        result = decide(
            self,
            scored,
            encoder.name,
            poisoned=pairs.poisoned if pairs.manifest is not None else None,
            mismatched=mismatched_distances(*scored.embeddings)
            if scored.embeddings and scored.distances
            else None,
            judge=tested,
            trusted=None if known is None else known.scores,
            trusted_images=None if trusted is None else trusted.image,
        )
        return replace(result, kept=pairs.where(result.keep))
