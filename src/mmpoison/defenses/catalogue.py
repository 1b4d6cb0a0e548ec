"""The contract that every defence keeps, and the registry that finds them."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

from mmpoison.base.registry import Registry, unknown_name
from mmpoison.defenses.cut import CUT_OPTIONS, Cut
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.defenses.filter_result import PairScores
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.inputs import PairInputs, ProgressFor
    from mmpoison.pairs.table import PairDataset
    from mmpoison.training.loop import TrainingResult
    from mmpoison.training.settings import TrainingSettings

Kind = Literal["pre-training", "in-training", "post-training"]


class Defense(Protocol):
    """What every defence says of itself; what it does depends on its kind.

    A pre-training defence is a `PairFilter`, an in-training one a `RobustTraining`, a post-training one a
    `ModelRepair`.

    Attributes:
        name: Registered name.
        kind: When it acts.
        source: Where it was published.
        summary: One line: what it does.
        knobs: What can be set, by the name of the constructor's parameter, each with one line on what it trades.
        cost: One line: what it costs in computation, in clean data, in quality.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    source: ClassVar[str]
    summary: ClassVar[str]
    knobs: ClassVar[Mapping[str, str]]
    cost: ClassVar[str]


DEFENSES: Registry[type[Defense]] = Registry(
    "defence",
    "mmpoison.defenses",
    group="mmpoison.defenses",
    needs=("name", "kind", "source", "summary", "knobs", "cost", "apply"),
)


class PairFilter(Defense, Protocol):
    """A pre-training defence: scores pairs before anything is trained on them; a cut says which scores are too large.

    `mmpoison.defenses.filters.score_filter.ScoreFilter` is the base class that gives all of it but `score`.
    `mmpoison.defenses.filter_pairs` uses one: on a set of any size, by the command line, in a recipe and in Python.

    Attributes:
        needs_aligned_judge: Whether captions are compared with images, so that the judge must embed both in one space.
        streams: Whether the score of a pair depends on its image and that image's captions alone, and on no seed, so
            that a set of any size is scored in pieces; otherwise all pairs are scored at once, in memory.
        uses_trusted: Whether scores of clean pairs from elsewhere can be compared with those of the judged pairs; then
            `clean_loss` is measured on them, otherwise it is a share of the judged pairs.
        finds_groups: Whether there are suspected goals with p-values among the scores, which `false_alarms` needs.
        score_name: What the score is, for figures.
        score_range: Scores lie in it; a threshold outside is refused.
        default_cut: Where it cuts if nobody says; None if somebody must.
        cut: Where it cuts.
    """

    needs_aligned_judge: ClassVar[bool]
    streams: ClassVar[bool]
    uses_trusted: ClassVar[bool]
    finds_groups: ClassVar[bool]
    score_name: ClassVar[str]
    score_range: ClassVar[tuple[float, float]]
    default_cut: ClassVar[Cut | None]
    cut: Cut

    @abstractmethod
    def score(
        self,
        pairs: PairDataset,
        encoder: DualEncoder,
        inputs: PairInputs,
        *,
        seed: int = 0,
        progress: ProgressFor | None = None,
    ) -> PairScores:
        """Score every pair.

        Args:
            pairs: The pairs to judge; usually the training pairs. What says in them which are poisoned may not be used.
            encoder: The judge.
            inputs: Prepared inputs for the judge, holding all pairs.
            seed: Seed of everything random.
            progress: Gives a progress callback for a named step.

        Raises:
            InputError: If the method cannot score these pairs, for example too few.
        """
        ...


class RobustTraining(Defense, Protocol):
    """An in-training defence: trains on pairs of which some may be poisoned, in a way that resists them."""

    def apply(
        self,
        encoder: DualEncoder,
        pairs: PairDataset,
        inputs: PairInputs,
        settings: TrainingSettings,
        *,
        seed: int,
    ) -> TrainingResult:
        """Train a copy of an encoder, in the place of `mmpoison.training.finetune`.

        Args:
            encoder: Where to start.
            pairs: The training pairs, nobody knows which are good.
            inputs: Prepared inputs that hold them.
            settings: How a training without the defence would go.
            seed: Seed of everything random.

        Raises:
            InputError: If it cannot be trained on these pairs.
        """
        ...


class ModelRepair(Defense, Protocol):
    """A post-training defence: makes a repaired copy of a suspect model from pairs that are known to be clean."""

    def apply(
        self, encoder: DualEncoder, clean_pairs: PairDataset, inputs: PairInputs, *, seed: int
    ) -> TrainingResult:
        """Repair a copy of an encoder.

        Args:
            encoder: The suspect.
            clean_pairs: Pairs known to be clean.
            inputs: Prepared inputs that hold them.
            seed: Seed of everything random.

        Raises:
            InputError: If a pair is marked as poisoned.
        """
        ...


def build_filter(name: str, options: Mapping[str, Any], where: str = "") -> PairFilter:
    """Build a pre-training defence by name.

    Args:
        name: Registered name.
        options: Its own parameters, and those of the cut (`mmpoison.defenses.cut.CutOptions`).
        where: Prefix of an option's name in messages, for example `recipe key filter.`.

    Raises:
        InputError: If there is no such defence, it acts at another time, or it has no such option.
    """
    plug_in = DEFENSES[name]
    if plug_in.kind != "pre-training":
        others = [other for other in DEFENSES if DEFENSES[other].kind == "pre-training"]
        raise InputError(
            f"defence {name!r} is a {plug_in.kind} one, a filter acts before: {', '.join(others)}"
        )
    known = {
        option
        for parameter in inspect.signature(plug_in).parameters.values()
        for option in (CUT_OPTIONS if parameter.kind is parameter.VAR_KEYWORD else [parameter.name])
    }
    if unknown := [option for option in options if option not in known]:
        raise InputError(
            f"{where}{unknown[0]}: defence {name!r}: "
            f"{unknown_name('option', unknown[0], sorted(known))}"
        )
    return cast(PairFilter, plug_in(**options))
