"""The attackers that `suspected_goals.py` measures: the paper's, with either carrier, and those who know the filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmpoison.attacks import (
    Attack,
    BothNames,
    Decoys,
    MultipleTargetLabels,
    NearestAssigned,
    NearestGoal,
    Orphan,
    SelfVouched,
    SingleTargetImage,
    SingleTargetLabel,
    UnderTheGrid,
)

TWO, EIGHT = 2, 8


@dataclass(frozen=True)
class Attacker:
    """One attacker.

    Attributes:
        name: As in the table.
        build: Makes the attack from its goals.
        goals: How many goals it has at once, to one target class.
        near: Whether its target is one of the classes nearest to the original one.
        single: Whether the set has one caption an image.
    """

    name: str
    build: Callable[[Sequence[str]], Attack]
    goals: int = 1
    near: bool = False
    single: bool = False


ATTACKERS = (
    *(
        Attacker(f"I {mode}", lambda g, mode=mode: SingleTargetImage(g[0], samples=25, mode=mode))
        for mode in ("add", "replace")
    ),
    *(
        Attacker(
            f"II {carrier} {samples}",
            lambda g, carrier=carrier, samples=samples: SingleTargetLabel(
                g[0], samples=samples, carrier=carrier
            ),
        )
        for carrier in ("existing", "own")
        for samples in (25, 10, 5)
    ),
    Attacker(
        "II existing 25, samples",
        lambda g: SingleTargetLabel(g[0], samples=25, spread="samples"),
    ),
    *(
        Attacker(
            f"II {carrier} 25, replace",
            lambda g, carrier=carrier: SingleTargetLabel(
                g[0], samples=25, mode="replace", carrier=carrier
            ),
        )
        for carrier in ("existing", "own")
    ),
    *(
        Attacker(
            f"III {carrier} 2 x 25",
            lambda g, carrier=carrier: MultipleTargetLabels(g, samples=25, carrier=carrier),
            goals=TWO,
        )
        for carrier in ("existing", "own")
    ),
    *(
        Attacker(
            f"II {carrier} 25, one caption an image",
            lambda g, carrier=carrier: SingleTargetLabel(g[0], samples=25, carrier=carrier),
            single=True,
        )
        for carrier in ("existing", "own")
    ),
    *(
        Attacker(f"self-vouched {share:.0%}", lambda g, share=share: SelfVouched(g[0], share=share))
        for share in (0.1, 0.25, 0.5)
    ),
    Attacker("nearest-assigned", lambda g: NearestAssigned(g[0], samples=25), near=True),
    Attacker(
        "nearest-assigned, all seen",
        lambda g: NearestAssigned(g[0], samples=25, unseen=1),
        near=True,
    ),
    *(
        Attacker(
            f"under-the-grid, {cell} a cell",
            lambda g, cell=cell: UnderTheGrid(g, samples=5, per_cell=cell),
            goals=EIGHT,
        )
        for cell in (1, 2, 3)
    ),
    Attacker("nearest-goal", lambda g: NearestGoal(g[0], samples=25)),
    Attacker("both-names", lambda g: BothNames(g[0], samples=25)),
    Attacker("decoys", lambda g: Decoys(g[0], samples=25)),
    Attacker("orphan", lambda g: Orphan(g[0], samples=25)),
)
