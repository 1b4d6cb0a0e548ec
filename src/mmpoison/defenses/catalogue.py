"""The Protocols of the four kinds of defences, the registry, and functions that build and apply a defence."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypedDict

from mmpoison.base.options import check_options
from mmpoison.base.progress import ProgressFor
from mmpoison.base.registry import Registry
from mmpoison.defenses.cut import CUT_OPTIONS
from mmpoison.errors import InputError

if TYPE_CHECKING:
    from mmpoison.defenses.check_result import CheckResult
    from mmpoison.evaluation.test_set import TestSet
    from mmpoison.models.dual_encoder import DualEncoder
    from mmpoison.models.inputs import PairInputs
    from mmpoison.pairs.table import PairDataset
    from mmpoison.training.log import LogOptions
    from mmpoison.training.loop import OnStep, TrainingResult
    from mmpoison.training.settings import TrainingSettings
    from mmpoison.training.states import Checkpoints

DefenseKind = Literal["pre-training", "in-training", "post-training", "check"]


class Defense(Protocol):
    """The description that every defence declares; its `apply` depends on its kind.

    A pre-training defence is a `ScoreFilter`, an in-training one a `RobustTraining`, a post-training one a
    `ModelRepair`, a check a `ModelCheck`.

    Attributes:
        name: Registered name.
        kind: When it acts.
        source: Where it was published.
        summary: One line: what it does.
        parameters: What can be set, by the name of the constructor's parameter, each with one line on what it trades.
        cost: One line: what it costs in computation, in clean data, in quality.
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
    """Optional arguments of `finetune` that a run offers to each training inside a defence.

    A defence whose `apply` has `**services: Unpack[TrainingServices]`, or a parameter of one of these names, is given
    them and passes them on to its (last) `finetune`. Without `checkpoints` it starts again after a kill; without
    `on_step` it cannot be measured, or ended, before it is done. One that takes `on_step` returns the model of the last
    step as it is: what changes weights after the last step does without.

    Attributes:
        name: Name of the new encoder.
        on_step: Called after every step; ends the training by returning True.
        checkpoints: Where to save the state.
        log: Where to log every step.
        progress: Gives a progress callback for a named step.
    """

    name: str | None
    on_step: OnStep | None
    checkpoints: Checkpoints | None
    log: LogOptions | None
    progress: ProgressFor | None


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
        """Train a copy of an encoder, in place of `mmpoison.training.finetune`; may take `TrainingServices`.

        Args:
            encoder: Where to start.
            pairs: The training pairs; it is unknown which are good.
            inputs: Prepared inputs that hold them.
            settings: How a training without the defence would go.
            seed: Seed of everything random.

        Raises:
            InputError: If it cannot be trained on these pairs.
        """
        ...


class ModelRepair(Defense, Protocol):
    """A post-training defence: changes a copy of a suspect model with pairs that are known to be clean.

    One whose constructor has a parameter `settings` (`TrainingSettings`) is given those of the command line or the
    recipe there, and can be tried at several learning rates.
    """

    def apply(
        self, encoder: DualEncoder, clean_pairs: PairDataset, inputs: PairInputs, *, seed: int
    ) -> TrainingResult:
        """Repair a copy of an encoder; may take `TrainingServices`.

        Args:
            encoder: The suspect.
            clean_pairs: Pairs known to be clean.
            inputs: Prepared inputs that hold them.
            seed: Seed of everything random.

        Raises:
            InputError: If a pair is marked as poisoned (`require_clean`).
        """
        ...


class ModelCheck(Defense, Protocol):
    """A check: says whether a model is poisoned, without knowing the goal.

    Attributes:
        needs_reference: Whether it needs the clean model that the suspect was made from.
        uses_clean_models: Whether clean fine-tunes of that model tell it what is usual.
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
        """Check a suspect; no model is changed.

        Args:
            suspect: The suspect.
            test: Clean images and captions to measure on.
            inputs: Prepared inputs that hold them.
            reference: The clean model that the suspect was made from, or has at least the architecture of.
            clean_models: Clean fine-tunes of the reference; each is loaded or trained when it is asked for.
            seed: Seed of everything random.
            progress: Gives a progress callback for a named step.

        Raises:
            InputError: If the data do not suffice.
        """
        ...


def defense_parameters(kind: DefenseKind, name: str) -> dict[str, bool]:
    """Parameters of a defence's constructor, and whether each must be given; a filter takes those of the cut too.

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
    """Split values given by name into options of a defence and all others, which are settings of a training.

    Args:
        kind: When it acts.
        name: Registered name.
        values: The values.
        clean_runs: How many clean fine-tunes a check makes; 0: it has no training to set.

    Raises:
        InputError: As `defense_parameters`, or if something is left for a defence that takes no settings.
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
        kind: When it acts; decides which Protocol the result has.
        name: Registered name.
        options: Of its constructor.
        where: Prefix of an option's name in messages, for example `recipe key sterilize.`.
        settings: For a constructor that has a parameter `settings`; None leaves its default.

    Raises:
        InputError: If there is no such defence, it is of another kind, an option is unknown or missing, or it takes
            no settings and is given some.
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
    """Return which of `TrainingServices` a defence takes."""
    apply: Any = getattr(defense, "apply")  # noqa: B009 - a class of the registry has it too
    parameters = inspect.signature(apply).parameters.values()
    known = frozenset(TrainingServices.__annotations__)
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return known
    return known & {each.name for each in parameters}


def train_with(
    defense: RobustTraining | ModelRepair, *inputs: Any, seed: int, services: TrainingServices
) -> TrainingResult:
    """Apply a defence that trains, with those of the services that it takes."""
    taken = services_of(defense)
    apply: Any = defense.apply
    result: TrainingResult = apply(
        *inputs, seed=seed, **{key: value for key, value in services.items() if key in taken}
    )
    return result


def require_clean(clean_pairs: PairDataset) -> None:
    """Refuse pairs given as clean that a manifest marks as poisoned.

    Raises:
        InputError: If there are any.
    """
    if clean_pairs.poisoned.any():
        raise InputError(
            f"{int(clean_pairs.poisoned.sum())} of the pairs given as clean are poisoned, according to their manifest"
        )
