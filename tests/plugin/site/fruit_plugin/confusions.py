"""Scan that needs the suspect alone: which class is found in place of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mmpoison.defenses.catalogue import DEFENSES, Kind
from mmpoison.defenses.check_result import CheckResult
from mmpoison.evaluation import TestEmbeddings, TestSet
from mmpoison.models.dual_encoder import DualEncoder
from mmpoison.models.inputs import PairInputs, ProgressFor


@dataclass(frozen=True)
class Confusion:
    """Captions of a class that find images of another first."""

    captions: str
    images: str
    share: float
    p_value: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


@DEFENSES.register("confusions")
class Confusions:
    """Count the class of the first image for captions of each class.

    Args:
        least: Smallest share that is listed.
    """

    name: ClassVar[str] = "confusions"
    kind: ClassVar[Kind] = "check"
    source: ClassVar[str] = "the tests of mmpoison"
    summary: ClassVar[str] = "lists classes that are found in place of others"
    parameters: ClassVar[Mapping[str, str]] = {"least": "smallest share that is listed"}
    cost: ClassVar[str] = "one embedding pass"
    needs_reference: ClassVar[bool] = False
    uses_clean_models: ClassVar[bool] = False

    def __init__(self, least: float = 0.0) -> None:
        self.least = least

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
        """Scan a suspect."""
        rows = np.arange(len(test.pairs), dtype=np.int32)
        first = TestEmbeddings.of(suspect, inputs, test).similarity(rows).argmax(axis=1)
        found = test.pairs.images.class_codes[test.gallery][first]
        names = test.pairs.classes
        shares = {
            (a, b): float((found[test.caption_class == a] == b).mean())
            for a in range(len(names))
            for b in range(len(names))
            if a != b and (test.caption_class == a).any()
        }
        listed = sorted(
            (Confusion(names[a], names[b], s, 1 - s) for (a, b), s in shares.items()),
            key=lambda one: one.p_value,
        )
        return CheckResult(tuple(one for one in listed if one.share >= self.least))
