"""Protocols of the four kinds of defences, the result of a check, the registry, and functions that build and apply."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypedDict

from pydantic import BeforeValidator, Field

from mmpoison.base.options import check_options, options
from mmpoison.base.progress import ProgressFor
from mmpoison.base.registry import Registry
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.evaluation.test_set import TestSet
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.inputs import PairInputs
    from mmpoison.pairs.table import PairDataset
    from mmpoison.training.log import LogOptions
    from mmpoison.training.loop import OnStep, TrainingResult
    from mmpoison.training.settings import TrainingSettings
    from mmpoison.training.states import Checkpoints


Rule = Literal["given", "loss", "labels", "false-alarms"]
Interval = tuple[float, float]


ThresholdOption = Annotated[float | None, Field(description="drop pairs with a larger score")]
LossOption = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="acceptable loss of clean pairs, measured on trusted pairs if there are any, else as a "
        "share of the judged pairs",
    ),
]
LabelsOption = Annotated[
    Path | None,
    BeforeValidator(lambda given: Path(given) if given and type(given) is str else given or None),
    Field(description="a CSV with the columns pair and verdict"),
]
AlarmsOption = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="share of clean data sets that may raise an alarm, for a method that finds groups",
    ),
]


class CutOptions(TypedDict, total=False):
    """Keyword arguments of every filter that define the cut; `Cut` explains them."""

    threshold: float | None
    clean_loss: float | None
    labels: str | Path | None
    false_alarms: float | None


@options
class Cut:
    """Defines which scores are dropped: at most one of `threshold`, `clean_loss` and `labels`.

    With `labels`, `clean_loss` caps the loss. `false_alarms` may be combined with any.

    Raises:
        InputError: If no cut or conflicting cuts are given, or a value is out of range.
    """

    threshold: ThresholdOption = None
    clean_loss: LossOption = None
    labels: LabelsOption = None
    false_alarms: AlarmsOption = None

    def __post_init__(self) -> None:
        given = (self.threshold is not None) + (self.labels is not None)
        given += self.clean_loss is not None and self.labels is None
        if given > 1 or (not given and self.false_alarms is None):
            raise InputError(
                "give exactly one of threshold (--threshold), clean_loss (--lose) and labels (--labels), which sets "
                "the cut; only clean_loss and labels may be given together"
            )


CUT_OPTIONS = frozenset(CutOptions.__annotations__)
"""Keyword names of a cut."""


@dataclass(frozen=True)
class Threshold:
    """A score above which pairs are dropped.

    Attributes:
        value: The score.
        rule: What chose it.
        interval: 95% confidence interval of the score, if it was chosen from data.
        loss: Estimated share of the clean pairs that it drops; None if unknown.
        loss_interval: 95% confidence interval of that share.
        note: A note for the user, or empty.
    """

    value: float
    rule: Rule
    interval: Interval | None = None
    loss: float | None = None
    loss_interval: Interval | None = None
    note: str = ""

    def facts(self) -> dict[str, Any]:
        """Return plain values for a log. Unknown values are absent."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None and value != ""
        }


class Finding(Protocol):
    """One sign of poison. Its text names the sign and how certain it is."""

    @property
    def p_value(self) -> float:
        """Probability that a clean model shows anything this unusual, in [0, 1]."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a file and for a table, the names first."""
        ...


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        findings: All findings, the most unusual first, including insignificant ones.
        facts: Further content of the file, as plain values: what was compared with what.
        notes: Notes on how to read the findings, one line each.
    """

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def flagged(self, false_alarms: float) -> tuple[Finding, ...]:
        """Return the findings whose p-value is at most `false_alarms`."""
        return tuple(found for found in self.findings if found.p_value <= false_alarms)


DefenseKind = Literal["pre-training", "in-training", "post-training", "check"]


class Defense(Protocol):
    """The attributes that every defence declares. The signature of `apply` depends on the kind.

    A pre-training defence is a `ScoreFilter`, an in-training defence a `RobustTraining`, a post-training defence a
    `ModelRepair`, and a check a `ModelCheck`.

    Attributes:
        name: Registered name.
        kind: The stage at which it acts.
        source: Its publication.
        summary: One line: what it does.
        parameters: Options, by constructor parameter, each with one line on its trade-off.
        cost: One line: its cost in computation, clean data and quality.
    """

    name: ClassVar[str]
    kind: ClassVar[DefenseKind]
    source: ClassVar[str]
    summary: ClassVar[str]
    parameters: ClassVar[Mapping[str, str]]
    cost: ClassVar[str]


DEFENSES: Registry[type[Defense]] = Registry(
    "defence",
    "mmpoison.defenses",
    group="mmpoison.defenses",
    needs=("name", "kind", "source", "summary", "parameters", "cost"),
    in_laboratory=True,
)


class TrainingServices(TypedDict, total=False):
    """Optional arguments of `finetune` that a run passes to training inside a defence.

    A defence receives them if its `apply` has `**services: Unpack[TrainingServices]` or a parameter with one of these
    names, and passes them to its (last) `finetune`. Without `checkpoints` it restarts after a kill. Without `on_step`
    it cannot be probed or stopped early. A defence that takes `on_step` must return the model of the last step
    unchanged; a defence that changes weights after the last step must not take it.

    Attributes:
        name: Name of the new encoder.
        on_step: Called after every step; returning True stops the training.
        checkpoints: Where to save the state.
        log: Where to log every step.
        progress: Returns a progress callback for a named step.
    """

    name: str | None
    on_step: OnStep | None
    checkpoints: Checkpoints | None
    log: LogOptions | None
    progress: ProgressFor | None


class RobustTraining(Defense, Protocol):
    """An in-training defence: trains on possibly poisoned pairs in a way that resists the poison."""

    def apply(
        self,
        encoder: DualEncoder,
        pairs: PairDataset,
        inputs: PairInputs,
        settings: TrainingSettings,
        *,
        seed: int,
    ) -> TrainingResult:
        """Train a copy of an encoder, instead of `mmpoison.training.finetune`. May take `TrainingServices`.

        Args:
            encoder: Where to start.
            pairs: The training pairs, some of which may be poisoned.
            inputs: Preprocessed inputs of these pairs.
            settings: Settings of training without the defence.
            seed: Seed for all random choices.

        Raises:
            InputError: If the defence cannot train on these pairs.
        """
        ...


class ModelRepair(Defense, Protocol):
    """A post-training defence: repairs a copy of a suspect model with known clean pairs.

    If its constructor has a parameter `settings` (`TrainingSettings`), it receives the settings of the command line or
    the recipe, and can be tried at several learning rates.
    """

    def apply(
        self, encoder: DualEncoder, clean_pairs: PairDataset, inputs: PairInputs, *, seed: int
    ) -> TrainingResult:
        """Repair a copy of an encoder. May take `TrainingServices`.

        Args:
            encoder: The suspect.
            clean_pairs: Pairs known to be clean.
            inputs: Preprocessed inputs of these pairs.
            seed: Seed for all random choices.

        Raises:
            InputError: If a pair is marked as poisoned (`require_clean`).
        """
        ...


class ModelCheck(Defense, Protocol):
    """A check: tests whether a model is poisoned, without knowing the goal.

    Attributes:
        needs_reference: Whether it needs the clean model that the suspect was made from.
        uses_clean_models: Whether it uses clean fine-tunes of that model as a baseline.
    """

    needs_reference: ClassVar[bool]
    uses_clean_models: ClassVar[bool]

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
        """Check a suspect without changing any model.

        Args:
            suspect: The suspect.
            test: Clean images and captions to measure on.
            inputs: Preprocessed inputs of these pairs.
            reference: The clean model that the suspect was made from, or at least one with the same architecture.
            clean_models: Clean fine-tunes of the reference, each loaded or trained on demand.
            seed: Seed for all random choices.
            progress: Returns a progress callback for a named step.

        Raises:
            InputError: If there are too few data.
        """
        ...


def defense_parameters(kind: DefenseKind, name: str) -> dict[str, bool]:
    """Map a defence's constructor parameters to whether each is required; filters include those of the cut.

    Raises:
        InputError: If there is no such defence, or it is of another kind.
    """
    plug_in = DEFENSES[name]
    if plug_in.kind != kind:
        others = ", ".join(other for other in DEFENSES if DEFENSES[other].kind == kind)
        raise InputError(
            f"defence {name!r} is of kind {plug_in.kind}, expected kind {kind}: "
            + (others or "none is installed")
        )
    known: dict[str, bool] = {}
    for each in inspect.signature(plug_in).parameters.values():
        if each.kind is each.VAR_KEYWORD:
            known |= dict.fromkeys(CUT_OPTIONS if kind == "pre-training" else (), False)
        else:
            known[each.name] = each.default is each.empty
    return known


def split_options(
    kind: DefenseKind, name: str, values: Mapping[str, Any], clean_runs: int | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split named values into options of a defence and training settings.

    Args:
        kind: The stage at which it acts.
        name: Registered name.
        values: The values.
        clean_runs: Number of clean fine-tunes that a check trains; with 0 there are no training settings.

    Raises:
        InputError: As `defense_parameters`, or if values remain for a defence that takes no settings.
    """
    known = defense_parameters(kind, name)
    own = {key: value for key, value in values.items() if key in known and key != "settings"}
    rest = {key: value for key, value in values.items() if key not in own}
    if kind == "post-training" and "settings" not in known:
        check_options(rest, known, f"defence {name!r}")
    if rest and clean_runs == 0:
        raise InputError(
            f"{next(iter(rest))}: check {name!r} has no such option; a setting of clean fine-tunes also needs "
            "clean_runs (--clean-runs), which says how many"
        )
    return own, rest


def build_defense(
    kind: DefenseKind,
    name: str,
    options: Mapping[str, Any],
    where: str = "",
    settings: TrainingSettings | None = None,
) -> Any:
    """Build a defence of a kind by name.

    Args:
        kind: The stage at which it acts, which determines the Protocol of the result.
        name: Registered name.
        options: Constructor options.
        where: Prefix for option names in messages, for example `recipe key sterilize.`.
        settings: Passed to constructors with a parameter `settings`; None keeps the default.

    Raises:
        InputError: If there is no such defence, it is of another kind, an option is unknown or missing, or settings are
            given to a defence without settings.
    """
    known = defense_parameters(kind, name)
    given = dict(options)
    if settings is not None:
        if "settings" not in known:
            raise InputError(f"{where}training: defence {name!r} has no training settings")
        given["settings"] = settings
    check_options(options, known.keys() - {"settings"}, f"defence {name!r}", where)
    if missing := [option for option, needed in known.items() if needed and option not in given]:
        option = "training" if missing[0] == "settings" else missing[0]
        raise InputError(f"{where}{option}: defence {name!r} needs it")
    plug_in: Any = DEFENSES[name]
    return plug_in(**given)


def services_of(defense: RobustTraining | ModelRepair | type[Defense]) -> frozenset[str]:
    """Return the names of the `TrainingServices` that a defence takes."""
    apply: Any = getattr(defense, "apply")  # noqa: B009 - a class of the registry has it too
    parameters = inspect.signature(apply).parameters.values()
    known = frozenset(TrainingServices.__annotations__)
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return known
    return known & {each.name for each in parameters}


def train_with(
    defense: RobustTraining | ModelRepair, *inputs: Any, seed: int, services: TrainingServices
) -> TrainingResult:
    """Apply a defence that trains, with the services that it takes."""
    taken = services_of(defense)
    apply: Any = defense.apply
    result: TrainingResult = apply(
        *inputs, seed=seed, **{key: value for key, value in services.items() if key in taken}
    )
    return result


def require_clean(clean_pairs: PairDataset) -> None:
    """Refuse supposedly clean pairs that a manifest marks as poisoned.

    Raises:
        InputError: If any pair is marked.
    """
    if clean_pairs.poisoned.any():
        raise InputError(
            f"{int(clean_pairs.poisoned.sum())} of the pairs given as clean are poisoned, according to their manifest: "
            "give another split, or the folder that scan --kept wrote"
        )
